"""The options that commands share: which reports to write and where, how many cores to use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ..benchmarks.parallel import available_cores

_WORST_FRAMES = 12
_FILE = click.Path(path_type=Path, dir_okay=False)

Command = TypeVar("Command", bound=Callable[..., Any])


def report_option(command: Command) -> Command:
    """Add `--report DIR` to a command, which receives it as `report`; None is not written."""
    return click.option(
        "--report",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Write result.json, observations.jsonl and report.html there. Default: not written.",
    )(command)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What to write where. `jobs` 0 stands for every core."""

    json: Path | None
    csv: Path | None
    html: Path | None
    worst_frames: int
    jobs: int
    verbose: bool
    skip_missing: bool


def report_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options to a command, which receives them as `options`."""

    @functools.wraps(command)
    def with_options(
        *,
        json: Path | None,
        csv: Path | None,
        html: Path | None,
        worst_frames: int,
        jobs: int,
        verbose: bool,
        skip_missing: bool,
        **arguments: object,
    ) -> None:
        options = ReportOptions(
            json=json,
            csv=csv,
            html=html,
            worst_frames=worst_frames,
            jobs=jobs,
            verbose=verbose,
            skip_missing=skip_missing,
        )
        command(options=options, **arguments)

    decorators = (
        click.option(
            "--json", type=_FILE, metavar="FILE", help="Write everything as JSON. Default: not written."
        ),
        click.option(
            "--csv",
            type=_FILE,
            metavar="FILE",
            help="Write the metrics per sequence and object as CSV. Default: not written.",
        ),
        click.option(
            "--html",
            type=_FILE,
            metavar="FILE",
            help="Write a page with bars per sequence and the worst frames. Default: not written.",
        ),
        click.option(
            "--worst_frames",
            "--worst-frames",
            "worst_frames",
            type=click.IntRange(0, 200),
            default=_WORST_FRAMES,
            show_default=True,
            help="How many of the worst frames JSON lists and HTML shows.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(0, 256),
            default=0,
            show_default=True,
            help=f"Processes; 0 is one per core ({available_cores()} here), 1 works without any.",
        ),
        click.option("--verbose", is_flag=True, help="Also print every sequence and object. Default: off."),
        click.option(
            "--skip_missing",
            "--skip-missing",
            "skip_missing",
            is_flag=True,
            help="Leave out sequences that lack files, and say so, instead of stopping. Default: off.",
        ),
    )
    for decorate in reversed(decorators):
        with_options = decorate(with_options)
    return with_options
