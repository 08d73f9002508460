"""A video and sides in, times and a report out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ...errors import GmosError, printable
from ...runtime.files.made_from import joined
from ...runtime.video.inputs import resolve_inputs
from ...sides import Side
from ..report.environment import environment
from ..report.files import publish, report_directory
from .document import profile_document
from .machine import GpuMonitor, machine_state, machine_use, process_age_s
from .profiling import NetworksProfile, ProfileOptions, profile_networks
from .report import NETWORKS, ProfileReport, changes, observations, read_result, result_json
from .roofline import CPU, host_rates
from .runs import profile_video

REGRESSION_STATUS = 1


def profile_sides(
    video: Path | str,
    sides: Sequence[Side],
    *,
    only: str | None,
    batches: str,
    objects: str,
    report: Path | None,
    baseline: Path | None,
    threshold: float,
    wide: bool,
    **options: Any,
) -> int:
    """Profile networks and video by every side, show and report it; the exit status.

    Options as gmos-profile's; those of `ProfileOptions` are handed on.

    Raises:
        GmosError: a side cannot be profiled or loaded, or the baseline or report cannot be used.
    """
    start_up_s, started = process_age_s(), time.monotonic()
    if len({side.text for side in sides}) < len(sides):
        raise GmosError("--side: the same side twice; give each once")
    for side in sides:
        if side.masks is not None:
            raise GmosError(f"--side {side.text}: masks take no time; name a backend")
    report_directory(report)
    earlier = None if baseline is None else read_result(baseline)
    wanted = ProfileOptions(
        batches=_lengths("--batches", batches), objects=_lengths("--objects", objects), **options
    )
    (sequence,) = resolve_inputs([video], fps=None, stride=None if Path(video).is_file() else 1)
    before, host = machine_state(), host_rates()
    found, gpus = NetworksProfile(), []
    if only != "video":
        with GpuMonitor() as monitor:
            found = profile_networks(sides, sequence, wanted, host)
        gpus = [(NETWORKS, gpu) for gpu in monitor.use]
    runs = [profile_video(side, sequence) for side in sides] if only != "networks" else []
    gpus += [(run.side, gpu) for run in runs for gpu in run.gpus]
    used = any(rates.device != CPU for rates in found.rates.values())
    used |= any(run.device_mib is not None for run in runs)
    timed = {layers.side for layers in found.layers}
    result = ProfileReport(
        video=str(video),
        sides=tuple(side.text for side in sides),
        networks=found.networks,
        layers=found.layers,
        without_layers=tuple(side.text for side in sides if wanted.layers and side.text not in timed),
        runs=tuple(runs),
        host=host,
        rates=found.rates,
        start_up_s=start_up_s,
        machine=machine_use(before, machine_state()),
        gpus=tuple(gpus),
        notes=("NVML does not tell: clocks and throttling of the GPU are not known",)
        if used and not gpus
        else (),
        made_from=joined([*(side.made_from() for side in sides), sequence.made_from()]),
        environment=environment(),
        seconds=time.monotonic() - started,
    )
    values = result_json(result)
    compared = [] if earlier is None else changes(earlier, values)
    document = profile_document(result, compared=compared, threshold=threshold)
    publish(document, values, observations(result), wide=wide, report=report)
    slower = [change for change in compared if change.factor > 1 + threshold]
    for change in slower:
        click.echo(
            f"slower: {printable(change.what)}: {change.before:.2f} before, {change.now:.2f} now ({change.factor:.2f}x)"
        )
    if earlier is not None:
        click.echo(f"{len(slower)} of {len(compared)} times grew by more than {threshold:.0%}")
    return REGRESSION_STATUS if slower else 0


def _lengths(option: str, text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise GmosError(f"{option} {text}: expected whole numbers from 1, joined by commas, such as 1,4")
    return tuple(int(part) for part in parts)
