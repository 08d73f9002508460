"""The gmos-profile command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options import (
    CONTEXT,
    MEASUREMENT,
    NETWORKS,
    PATH,
    RESULTS,
    TRUST,
    FiniteRange,
    GroupedCommand,
    count_option,
    flag,
    given_input,
    names_option,
    option,
    report_option,
    trust_options,
    wide_option,
)
from ..sides import parse_side, refuse_idle_trust


@click.command("gmos-profile", cls=GroupedCommand, context_settings=CONTEXT)
@click.argument("video", type=given_input)
@option(
    "side",
    group=NETWORKS,
    to="sides",
    multiple=True,
    required=True,
    metavar="SPEC",
    help="torch:PRESET, onnxruntime:BUNDLE, tensorrt:BUNDLE or tensorrt-rtx:BUNDLE; repeated, sides are measured "
    "in turns and compared with the first.",
)
@trust_options
@names_option(NETWORKS)
@option(
    "only",
    group=MEASUREMENT,
    type=click.Choice(["networks", "video"]),
    help="Measure one of them.  [default: both]",
)
@flag(
    "layers",
    group=MEASUREMENT,
    help="Also time the layers of each network, where the library tells them: ONNX Runtime, TensorRT and "
    "TensorRT-RTX do. Each network is loaded once more for that.",
)
@count_option("iterations", MEASUREMENT, 20, "Timed calls of a network.")
@count_option("warm_up", MEASUREMENT, 3, "Calls before them.", least=0)
@option(
    "batches",
    group=MEASUREMENT,
    default="1",
    show_default=True,
    metavar="SIZES",
    help="Batch sizes of the networks, joined by commas.",
)
@option(
    "objects",
    group=MEASUREMENT,
    default="1,4",
    show_default=True,
    metavar="NUMBERS",
    help="Numbers of tracked objects of the tracker's networks, joined by commas.",
)
@wide_option
@report_option()
@option(
    "baseline",
    group=RESULTS,
    type=PATH,
    metavar="FILE",
    help="result.json of an earlier profile; exit status 1 if a time has grown beyond --threshold.  [default: none]",
)
@option(
    "threshold",
    group=RESULTS,
    type=FiniteRange(0),
    default=0.1,
    show_default=True,
    metavar="SHARE",
    help="Share by which a time may grow.",
)
def profile_command(video: Path | str, sides: tuple[str, ...], **options: Any) -> int:
    """How fast is it: latency of every network, seconds of every stage, frames per second, memory.

    VIDEO is a video file or a directory of frames. Exit status: 0 done, 1 slower than the baseline, 2 could not
    be measured.
    """
    from ..evaluation.profile.commands import profile_sides  # noqa: PLC0415 - the work

    trust = {name: options.pop(name) for name in TRUST}
    parsed = [parse_side("--side", text, trust) for text in sides]
    refuse_idle_trust(parsed, trust)
    return profile_sides(video, parsed, **options)
