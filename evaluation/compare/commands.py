"""The gmos-parity command, the options that its comparisons of masks share, and `gmos-parity masks`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..report.options import report_option
from .comparison import Comparison, compare_trees
from .limits import PROFILES

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def limit_options(command: Command) -> Command:
    """The options that say when both sides count as the same, and where the report goes."""
    for decorate in (
        click.option(
            "--any_ids",
            "--any-ids",
            "any_ids",
            is_flag=True,
            help="Let objects have other ids. Default: off.",
        ),
        click.option(
            "--min_mean_iou",
            "--min-mean-iou",
            "min_mean_iou",
            type=click.FloatRange(0, 1),
            help="Least mean IoU, in place of the profile's.",
        ),
        click.option(
            "--min_frame_iou",
            "--min-frame-iou",
            "min_frame_iou",
            type=click.FloatRange(0, 1),
            help="Least IoU of every frame, in place of the profile's.",
        ),
        click.option(
            "--profile",
            type=click.Choice(list(PROFILES)),
            default="fp32",
            show_default=True,
            help="Limits: fp32 0.999 on every frame and 0.9999 mean, fp16 and bf16 0.98 and 0.99, int8 and fp8 0.90 "
            "and 0.97.",
        ),
        report_option,
        click.option(
            "--worst_frames",
            "--worst-frames",
            "worst_frames",
            type=click.IntRange(0, 100),
            default=8,
            show_default=True,
            help="How many of the worst frames report.html shows.",
        ),
    ):
        command = decorate(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def parity() -> None:
    """Are the masks the same? Compare two runs, and say where they differ.

    Exit status: 0 within the limits, 1 beyond them, 2 could not be compared.
    """


@parity.command("masks")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option(
    "--video", type=PATH, metavar="FILE", help="The video, for pictures of its frames. Default: none."
)
@limit_options
def masks_command(a: Path, b: Path, video: Path | None, **options: Any) -> int:
    """Compare two directories of label-map PNGs.

    A and B are output directories of gmos-run, trees with a folder of PNGs per video (the published
    results), or the PNGs of one video.
    """
    comparison = Comparison.of("masks", str(a), str(b), [video] if video else [], options)
    return compare_trees(a, b, comparison)
