"""Times of every network: by the host, by events, until the call returned; against what the device can do."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from gmos_deploy.evaluation.compare.sides import input_dtypes
from gmos_deploy.evaluation.profile.latency import DeviceTimer, device_timer
from gmos_deploy.evaluation.profile.machine import GpuMonitor, GpuUse
from gmos_deploy.evaluation.profile.roofline import Rates, gpu_rates, limit, network_work, on_gpu
from gmos_deploy.runtime.backend import Backend
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.bundle.uploading import Dtypes, upload_inputs
from gmos_deploy.runtime.contract import NetworkName, network_specs
from gmos_deploy.runtime.shapes import letters_of, video_lengths
from gmos_deploy.runtime.tensorrt.call_plans import NoProfileError
from gmos_deploy.sides import Side

from .networks import MEMORIES
from .record import Context, Notes, tell_missing_engines

VIDEO_HW = (480, 854)
WARM_S, MEASURE_S = 1.0, 1.0
"""Clocks of a GPU rise within a second, and TensorRT-RTX changes to faster kernels while it runs: warmed by time."""

LEAST_CALLS = 5


def times(context: Context, notes: Notes) -> None:
    """The step: all networks on all backends, one object and one window; memory attention over R."""
    bundle = context.opened_bundle()
    tell_missing_engines(context, notes)
    for name in context.sides():
        notes.attempt(name, partial(_time_side, context.side(name), bundle, notes))


def _time_side(side: Side, bundle: Bundle, notes: Notes) -> None:
    with GpuMonitor() as monitor, closing(side.load()) as backend:
        # What was measured of a processor is of one that others use too: shares of it would pass 100 %.
        rates = gpu_rates(backend, bundle.precision) if on_gpu(backend) else None
        dtypes = input_dtypes(side, backend.model)
        cases = time_cases(bundle)
        # Half of what is left, or the last backend would find nothing.
        seconds = min(WARM_S + MEASURE_S, notes.left_s / 2 / len(cases))
        for network, lengths in cases:
            label = f"{side.text}: {network}" + (
                f" R={lengths['R']}" if network == "memory_attention" else ""
            )
            notes.attempt(
                label,
                partial(
                    time_network,
                    label,
                    backend,
                    bundle,
                    network,
                    lengths=lengths,
                    dtypes=dtypes[network],
                    rates=rates,
                    notes=notes,
                    seconds=seconds,
                ),
            )
        for use in monitor.use if on_gpu(backend) else ():
            notes.add(f"{side.text}: GPU {use.index}", "noted", gpu_words(use))


def time_cases(bundle: Bundle) -> list[tuple[NetworkName, dict[str, int]]]:
    """Networks and lengths: a window, an object, usual memories, and memory attention at every R."""
    model = bundle.model
    usual = {
        "B": 1,
        "O": 1,
        "R": model.memory_frames,
        "P": model.object_pointers,
        **video_lengths(model, VIDEO_HW),
    }
    cases = []
    for network, spec in network_specs(model).items():
        letters = letters_of((*spec.inputs, *spec.outputs))
        lengths = {axis: usual[axis] for axis in letters}
        if network == "memory_attention":
            cases += [(network, {**lengths, "R": count, "P": min(count, usual["P"])}) for count in MEMORIES]
        else:
            cases.append((network, lengths))
    return cases


def time_network(
    label: str,
    backend: Backend,
    bundle: Bundle,
    network: NetworkName,
    *,
    lengths: Mapping[str, int],
    dtypes: Dtypes,
    rates: Rates | None,
    notes: Notes,
    seconds: float = WARM_S + MEASURE_S,
) -> None:
    """Time calls of a network, half of the seconds to warm up, and write medians and the share of the roofline down.

    No `rates`: no share.
    """
    entry = bundle.networks[network]
    inputs = upload_inputs(
        backend.arrays, seeded_inputs(network, entry.inputs, bundle.model, lengths), dtypes
    )
    run = backend.runner(network)
    try:
        found = timed(lambda: run(inputs), backend, device_timer(backend), seconds / 2)
    except NoProfileError as error:
        notes.add(label, "missing", str(error))
        return
    bound = None if rates is None else limit(network_work(entry, lengths), rates)
    shortest = found["device_ms"] if found["device_ms"] is not None else found["wall_ms"]
    share = None if bound is None else bound.seconds * 1e3 / shortest
    parts = [f"{found['wall_ms']:.3f} ms", f"returned after {found['enqueue_ms']:.3f} ms"]
    parts += [] if found["device_ms"] is None else [f"{found['device_ms']:.3f} ms by events"]
    parts += [] if share is None or bound is None else [f"{share:.0%} of the roofline ({bound.bound})"]
    notes.add(label, "noted", ", ".join(parts), **found, roofline_share=share, lengths=dict(lengths))


def timed(
    call: Callable[[], object],
    backend: Backend,
    timer: DeviceTimer | None,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Medians in milliseconds: until the device is done, until the call returned, between events; and the calls."""

    def once() -> tuple[float, float, float]:
        begin, returned = clock(), math.nan

        def work() -> None:
            nonlocal returned
            call()
            returned = clock()

        device_ms = math.nan if timer is None else timer(work)
        if timer is None:
            work()
        backend.arrays.synchronize()
        return (clock() - begin) * 1e3, (returned - begin) * 1e3, device_ms

    end = clock() + seconds
    once()
    while clock() < end:
        once()
    samples, end = [once() for _ in range(LEAST_CALLS)], clock() + seconds
    while clock() < end:
        samples.append(once())
    wall, enqueue, device = (statistics.median(values) for values in zip(*samples, strict=True))
    return {
        "wall_ms": wall,
        "enqueue_ms": enqueue,
        "device_ms": None if math.isnan(device) else device,
        "calls": len(samples),
    }


def gpu_words(use: GpuUse) -> str:
    """Clocks, memory, temperature and what slowed it down."""
    parts = []
    if use.clock_least_mhz is not None and use.clock_greatest_mhz is not None:
        most = "" if use.clock_limit_mhz is None else f" of {use.clock_limit_mhz:.0f}"
        parts.append(f"{use.clock_least_mhz:.0f} to {use.clock_greatest_mhz:.0f}{most} MHz")
    if use.memory_peak_mib is not None:
        parts.append(f"{use.memory_peak_mib:.0f} MiB at most")
    if use.temperature_c is not None:
        parts.append(f"up to {use.temperature_c:.0f} degrees")
    parts += use.warnings()
    return ", ".join(parts) or "the driver tells nothing"
