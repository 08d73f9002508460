"""A video and sides in, times and a report out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ...errors import GmosError
from ...networks import Side
from ...runtime.video.inputs import resolve_inputs
from ..report.environment import environment
from ..report.files import PAGE_FILE, report_directory, write_report
from ..report.terminal import show
from .document import profile_document
from .gpu_monitor import GpuMonitor
from .machine_state import machine_state, machine_use
from .process_memory import process_age_s
from .profiling import NetworksProfile, ProfileOptions, profile_networks, sides_without_layers
from .report import NETWORKS, ProfileReport, changes, observations, read_result, result_json
from .roofline import CPU, host_rates
from .runs import VideoRun, profile_video

REGRESSION_STATUS = 1


def profile_sides(video: Path, sides: Sequence[Side], options: Mapping[str, Any]) -> int:
    """Profile networks and video by every side, show and report it; the exit status. Options as gmos-profile's.

    Raises:
        GmosError: a side cannot be profiled or loaded, or the baseline or report cannot be used.
    """
    start_up_s, started = process_age_s(), time.monotonic()
    if len({side.text for side in sides}) < len(sides):
        raise GmosError("--side: the same side twice; give each once")
    for side in sides:
        if side.masks is not None:
            raise GmosError(f"--side {side.text}: masks take no time; name a backend")
    report_dir: Path | None = options["report"]
    if report_dir is not None:
        report_directory(report_dir)
    baseline = None if options["baseline"] is None else read_result(options["baseline"])
    wanted = _options(options)
    (sequence,) = resolve_inputs([video], fps=None, stride=None if video.is_file() else 1)
    before, host = machine_state(), host_rates()
    found, gpus = NetworksProfile(rates={}), []
    if options["only"] != "video":
        with GpuMonitor() as monitor:
            found = profile_networks(sides, sequence, wanted, host)
        gpus = [(NETWORKS, gpu) for gpu in monitor.use]
    runs = [profile_video(side, sequence) for side in sides] if options["only"] != "networks" else []
    texts = tuple(side.text for side in sides)
    report = ProfileReport(
        video=str(video),
        sides=texts,
        networks=found.networks,
        layers=found.layers,
        without_layers=tuple(sides_without_layers(texts, found)) if wanted.layers else (),
        runs=tuple(runs),
        host=host,
        rates=found.rates,
        start_up_s=start_up_s,
        machine=machine_use(before, machine_state()),
        gpus=(*gpus, *((run.side, gpu) for run in runs for gpu in run.gpus)),
        notes=_notes(found, runs, any_gpu=bool(gpus)),
        environment=environment(),
        seconds=time.monotonic() - started,
    )
    return _conclude(report, baseline, options)


def _notes(found: NetworksProfile, runs: Sequence[VideoRun], *, any_gpu: bool) -> tuple[str, ...]:
    """What could not be told about a GPU that was used."""
    used = any(rates.device != CPU for rates in found.rates.values())
    used |= any(run.device_mib is not None for run in runs)
    watched = any_gpu or any(run.gpus for run in runs)
    return (
        ("NVML does not tell: clocks and throttling of the GPU are not known",)
        if used and not watched
        else ()
    )


def _conclude(report: ProfileReport, baseline: dict[str, Any] | None, options: Mapping[str, Any]) -> int:
    """Print and write the report, and say whether something has become slower."""
    result = result_json(report)
    compared = [] if baseline is None else changes(baseline, result)
    threshold: float = options["threshold"]
    slower = [change for change in compared if change.factor > 1 + threshold]
    document = profile_document(report, compared=compared, threshold=threshold)
    show(document, wide=options["wide"])
    report_dir: Path | None = options["report"]
    if report_dir is not None:
        write_report(report_dir, document, result, observations(report))
        click.echo(f"report: {report_dir / PAGE_FILE}")
    for change in slower:
        click.echo(
            f"slower: {change.what}: {change.before:.2f} before, {change.now:.2f} now ({change.factor:.2f}x)"
        )
    if baseline is not None:
        click.echo(f"{len(slower)} of {len(compared)} times grew by more than {threshold:.0%}")
    return REGRESSION_STATUS if slower else 0


def _options(options: Mapping[str, Any]) -> ProfileOptions:
    return ProfileOptions(
        warm_up=options["warm_up"],
        iterations=options["iterations"],
        batches=_lengths("--batches", options["batches"]),
        objects=_lengths("--objects", options["objects"]),
        networks=options["networks"],
        layers=options["layers"],
    )


def _lengths(option: str, text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise GmosError(f"{option} {text}: expected whole numbers from 1, joined by commas, such as 1,4")
    return tuple(int(part) for part in parts)
