"""The gmos-parity commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import GmosError
from ..networks import BACKENDS
from ..options import (
    COMPARISON,
    CONTEXT,
    INPUT,
    NETWORKS,
    PATH,
    RESULTS,
    TRUST,
    Decorator,
    FiniteRange,
    GroupedCommand,
    count_option,
    flag,
    given_input,
    names_option,
    option,
    rate_options,
    report_option,
    together,
    trust_options,
    wide_option,
    worst_frames_option,
)
from ..runtime.precision import PRECISIONS
from ..sides import parse_side

SIDE = (
    "torch:PRESET, onnxruntime:BUNDLE, tensorrt:BUNDLE, tensorrt-rtx:BUNDLE or masks:DIR; or named options of "
    "gmos-run, as torch:preset=published,precision=bf16,pi3_ckpt=FILE and so on."
)


def limits_option(text: str) -> Decorator[Any]:
    """What both sides are held to; None leaves it to their precisions."""
    return option(
        "limits",
        group=COMPARISON,
        old=("profile",),
        type=click.Choice(list(PRECISIONS)),
        metavar="PRECISION",
        help=f"{text}  [default: that of the less exact side, fp32 of masks]",
    )


def iou_option(name: str, text: str) -> Decorator[Any]:
    """One limit in place of that of the precision."""
    help_text = f"{text}  [default: that of --limits]"
    return option(name, group=COMPARISON, type=FiniteRange(0, 1), metavar="IOU", help=help_text)


mask_limits = together(
    limits_option(
        "Least IoU on every frame and its mean: of fp32 0.999 and 0.9999, fp16 and bf16 0.98 and 0.99, int8 and fp8 "
        "0.90 and 0.97."
    ),
    iou_option("min_frame_iou", "Least IoU of every frame."),
    iou_option("min_mean_iou", "Least mean IoU."),
    flag("any_ids", group=COMPARISON, help="Let objects have other ids."),
    wide_option,
    report_option(),
    worst_frames_option(8, 100, "report.html shows"),
)
"""When the masks of two sides count as the same, and where the report goes."""


@click.group(name="gmos-parity", context_settings=CONTEXT)
def parity_command() -> None:
    """Are the masks the same? Compare two runs, and say where they differ.

    Exit status: 0 within the limits, 1 beyond them, 2 could not be compared.
    """


@parity_command.command("masks", cls=GroupedCommand)
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@option(
    "video",
    group=INPUT,
    type=PATH,
    metavar="FILE",
    help="The video, for pictures of its frames.  [default: none]",
)
@mask_limits
def masks_command(a: Path, b: Path, video: Path | None, **options: Any) -> int:
    """Compare two directories of label-map PNGs.

    A and B are output directories of gmos-run, trees with a folder of PNGs per video (the published
    results), or the PNGs of one video.
    """
    from ..evaluation.compare.mask_commands import compare_trees  # noqa: PLC0415 - here and below: the work
    from ..evaluation.compare.report import Comparison  # noqa: PLC0415

    comparison = Comparison.of("masks", str(a), str(b), [video] if video else [], options)
    return compare_trees(a, b, comparison)


@parity_command.command("video", cls=GroupedCommand)
@click.argument("inputs", nargs=-1, type=given_input, required=True, metavar="INPUT...")
@rate_options
@option("a", group=NETWORKS, required=True, metavar="SPEC", help=SIDE)
@option("b", group=NETWORKS, required=True, metavar="SPEC", help="The same for the other side.")
@flag(
    "teacher_forced",
    group=NETWORKS,
    help="Also run every stage of B on A's inputs, to tell in which one a difference is born; both sides are "
    "loaded at once and run a second time.",
)
@trust_options
@mask_limits
@option(
    "keep",
    group=RESULTS,
    type=PATH,
    metavar="DIR",
    help="Keep the masks of both sides there.  [default: not kept]",
)
def video_command(**options: Any) -> int:
    """Run two sides on the same videos and compare their masks, stage by stage.

    INPUT is one or more video files, directories of frames, directories of videos, or patterns of them; one that cannot
    be run is left out and named, with exit status 3 where the others are within the limits. A side runs networks as
    gmos-run does, or is a directory of masks.
    """
    from ..evaluation.compare.mask_commands import compare_videos  # noqa: PLC0415

    trust = {name: options.pop(name) for name in TRUST}
    return compare_videos(**options, trust=trust)


@parity_command.command("networks", cls=GroupedCommand)
@click.argument("video", type=given_input)
@option("bundle", group=NETWORKS, type=PATH, metavar="DIR", help="The bundle of side B, if --b is not given.")
@option(
    "backend",
    group=NETWORKS,
    type=click.Choice([entry.name for entry in BACKENDS.values() if entry.runs == "bundle"]),
    default="onnxruntime",
    show_default=True,
    metavar="NAME",
    help="What runs --bundle: onnxruntime, tensorrt or tensorrt-rtx.",
)
@option(
    "a",
    group=NETWORKS,
    metavar="SPEC",
    help="The trusted side.  [default: the reference at the preset of --bundle]",
)
@option(
    "b",
    group=NETWORKS,
    metavar="SPEC",
    help="The side in question, as in gmos-parity video, instead of --bundle.",
)
@trust_options
@names_option(COMPARISON)
@count_option("frames", COMPARISON, 16, "Frames of the video.")
@count_option("calls", COMPARISON, 4, "Calls of each network that are compared, spread over the video.")
@limits_option("What outputs may differ by: the limits of this precision.")
@option(
    "first_divergence",
    group=COMPARISON,
    old=("first_layer",),
    metavar="NETWORK[.OUTPUT]",
    help="Also find the first layer in which this network (or what an output of it is computed from) passes the "
    "relative error of --limits; both sides must be bundles on onnxruntime.  [default: not looked for]",
)
@wide_option
@report_option()
@option(
    "save_tensors",
    group=RESULTS,
    type=PATH,
    metavar="DIR",
    help="Save inputs and both sides' outputs of each network's worst call there for Polygraphy, and print the "
    "commands that go on from there.  [default: not saved]",
)
def networks_command(*, bundle: Path | None, backend: str, b: str | None, **options: Any) -> int:
    """Compare every network of two sides on real activations.

    Side A runs the first frames of VIDEO; side B gets what A's networks got, so that a difference is
    shown where it is born.
    """
    from ..evaluation.compare.networks_command import compare_sides  # noqa: PLC0415

    if (bundle is None) == (b is None):
        raise GmosError("expected either --bundle DIR or --b SPEC")
    trust = {name: options.pop(name) for name in TRUST}
    named = ("--b", b) if b is not None else ("--bundle", f"{backend}:bundle={bundle}")
    return compare_sides(side_b=parse_side(*named, trust), **options, trust=trust)
