"""Whole videos: masks of a long clip, device memory against the budget, the second start."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import numpy as np

from gmos_deploy.evaluation.profile.roofline import host_rates
from gmos_deploy.runtime.backend import Backend
from gmos_deploy.runtime.bundle.engine_files import CACHE_SUFFIX, made_here
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.bundle.signature import SIGNATURE
from gmos_deploy.runtime.cuda.driver import Cuda
from gmos_deploy.runtime.frame_result import RESULTS
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.tensorrt.library import FLAVOURS
from gmos_deploy.runtime.tensorrt.memory import PlansMemory, RunSize, settle_run
from gmos_deploy.runtime.tensorrt.record import engine_directory
from gmos_deploy.sides import Side

from .clips import acceptance_video
from .masks import Masks, tell_agreement
from .networks import TRUST, trusted
from .record import FOR_TIME, Context, MissingError, Notes, tell_missing_engines, without_graphs

MIB = 1 << 20

LEAST_FRAMES = 8
"""Below, the masks of a clip say nothing of memories."""

CPU_FACTOR = 4.0
"""A run on a processor takes so many times what its products take at the greatest rate."""

OVERHEAD_BYTES = 768 * MIB
"""What CUDA and the library take on a device for themselves, outside of any budget."""

FEATURES_BYTES = 64 * MIB
"""What a budget leaves for features beside all else: those of nano's first frames."""

WATCH_S = 0.02


def video(context: Context, notes: Notes) -> None:
    """The step: a clip on every backend, engines with and without CUDA graphs, against ONNX Runtime on the CPU.

    Where a processor is too slow for the whole clip it is cut; where it is too slow for any, the runs are compared
    with the first of them.
    """
    bundle = context.opened_bundle()
    tell_missing_engines(context, notes)
    sides = [context.side(name) for name in context.sides() if name != TRUST]
    sides += [without_graphs(side) for side in sides if side.networks.backend in FLAVOURS]
    frames = affordable_frames(bundle, context.frames, notes.left_s / (len(sides) + 2))
    truth: Masks | None = None
    if frames >= LEAST_FRAMES and TRUST in context.sides():
        with closing(trusted(bundle)) as backend:
            truth, seconds = run_masks(backend, frames)
        notes.add(
            TRUST,
            "noted",
            f"{frames} frames at {frames / seconds:.2f} frames/s, what others are held against",
        )
    else:
        frames = context.frames
        notes.add(
            TRUST,
            "missing",
            "a processor that runs this bundle in time; the backends are compared with each other",
            **({FOR_TIME: True} if TRUST in context.sides() else {}),
        )
    for side in sides:

        def hold(side: Side = side) -> None:
            nonlocal truth
            with closing(side.load()) as backend:
                masks, _ = run_masks(backend, frames)
                again, seconds = run_masks(backend, frames)
            rate = frames / seconds
            if truth is None:
                truth = masks
                notes.add(side.text, "noted", f"the first; {rate:.1f} frames/s", frames_per_second=rate)
            else:
                hold_masks(side.text, truth, masks, precision=bundle.precision, rate=rate, notes=notes)
            same = all(np.array_equal(masks[name], again[name]) for name in masks)
            notes.expect(
                f"{side.text}, again", same, "the same masks" if same else "other masks the second time"
            )

        notes.attempt(side.text, hold)


def hold_masks(name: str, truth: Masks, masks: Masks, *, precision: str, rate: float, notes: Notes) -> None:
    """Compare the masks of two runs within the limits of a precision, and write it down."""
    tell_agreement(
        name,
        truth,
        masks,
        precision=precision,
        notes=notes,
        more=f"; {rate:.1f} frames/s",
        frames_per_second=rate,
    )


def affordable_frames(bundle: Bundle, wanted: int, seconds: float) -> int:
    """How many frames of a clip the processor runs in some seconds, by the products that the bundle counts."""
    flops = sum(entry.flops for entry in bundle.networks.values())
    per_frame_s = CPU_FACTOR * flops / (host_rates().flops or 1e11)
    return int(min(wanted, seconds / max(per_frame_s, 1e-6)))


def run_masks(backend: Backend, frames: int, options: RunOptions | None = None) -> tuple[Masks, float]:
    """All label maps (T, H, W) uint8 of the first frames by result, and the seconds that they took."""
    sequence = acceptance_video(backend.model, frames)
    settled = settle_run(backend, options or RunOptions(), [sequence])
    start = time.perf_counter()
    answers = list(ClipRun(backend, sequence, settled, frames=frames))
    seconds = time.perf_counter() - start
    results = RESULTS[backend.model.variant]
    return {name: np.stack([answer.values(name) for answer in answers]) for name in results}, seconds


def memory(context: Context, notes: Notes) -> None:
    """The step: engines with --memory_budget, and what the device really held."""
    tell_missing_engines(context, notes)
    for name in context.sides():
        if name in FLAVOURS:
            notes.attempt(name, partial(_hold_budget, context, name, notes))


def _hold_budget(context: Context, name: str, notes: Notes) -> None:
    cuda = Cuda(context.device)
    with closing(context.side(name).load()) as backend:
        if not isinstance(backend, PlansMemory):
            raise MissingError(f"a plan of {backend.description}")
        sequence = acceptance_video(backend.model, context.frames)
        budget = budget_for(backend, sequence.video_hw, sequence.stride)
    before = cuda.memory_info()[0]
    with (
        device_minimum(cuda) as least,
        closing(context.side(name, memory_budget=budget).load()) as backend,
    ):
        run_masks(backend, min(context.frames, 40), RunOptions(batch_size=1))
    hold_budget(name, budget, before - least["free"], notes)


def budget_for(backend: PlansMemory, video_hw: tuple[int, int], stride: int) -> int:
    """Bytes that a run of single windows just fits, with a few features: the others go to the host."""
    plan = backend.plan(RunSize(batch_size=1, video_hw=video_hw, stride=stride))
    return plan.weights + plan.activations + plan.arrays + FEATURES_BYTES


def hold_budget(name: str, budget: int, taken: int, notes: Notes) -> None:
    """Whether a run kept within its budget, but for what CUDA takes for itself."""
    words = f"{taken // MIB} MiB taken at most, {budget // MIB} MiB of budget"
    right = taken <= budget + OVERHEAD_BYTES
    notes.expect(name, right, words, taken_mib=taken // MIB, budget_mib=budget // MIB)


@contextmanager
def device_minimum(cuda: Cuda) -> Iterator[Mapping[str, int]]:
    """The least free memory of a device while the block runs, as `free` in bytes."""
    found, stop = {"free": cuda.memory_info()[0]}, threading.Event()

    def watch() -> None:
        while not stop.wait(WATCH_S):
            found["free"] = min(found["free"], cuda.memory_info()[0])

    thread = threading.Thread(target=watch, name="device memory", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def start(context: Context, notes: Notes) -> None:
    """The step, in a process that has loaded nothing: seconds until networks are loaded, and until a first answer."""
    _start_all(context, notes)


def first_start(context: Context, notes: Notes) -> None:
    """The step before: the same without the kernels that earlier steps have compiled, where the bundle may change."""
    bundle = context.opened_bundle()
    if not (bundle.root / SIGNATURE).exists():
        for flavour in FLAVOURS:
            for network in bundle.networks:
                file = engine_directory(bundle.root, flavour) / f"{network}{CACHE_SUFFIX}"
                if made_here(file):
                    notes.attempt(file.name, file.unlink)
    _start_all(context, notes)


def _start_all(context: Context, notes: Notes) -> None:
    tell_missing_engines(context, notes)
    for name in context.sides():
        notes.attempt(name, partial(_start_side, context, name, notes))


def _start_side(context: Context, name: str, notes: Notes) -> None:
    begin = time.perf_counter()
    with closing(context.side(name).load()) as backend:
        loaded_s = time.perf_counter() - begin
        masks, _ = run_masks(backend, LEAST_FRAMES)
    total_s = time.perf_counter() - begin
    labels = {result: int(np.count_nonzero(values)) for result, values in masks.items()}
    words = f"loaded after {loaded_s:.1f} s, {LEAST_FRAMES} frames after {total_s:.1f} s"
    notes.add(name, "noted", words, loaded_s=loaded_s, total_s=total_s, labelled=labels)


def compare_starts(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items of the first start in its words beside those of the second."""
    before = {item["name"]: item for item in first}
    return [
        {**item, "words": f"{item['words']}; the first time {before[item['name']]['words']}"}
        if item["name"] in before and item["verdict"] == "noted"
        else item
        for item in second
    ]
