"""The gmos-report command."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import CONTEXT, PATH, RESULTS, GroupedCommand, option, wide_option


@click.command("gmos-report", cls=GroupedCommand, context_settings=CONTEXT)
@click.argument("out", type=PATH, metavar="OUT.html")
@click.argument("results", type=PATH, nargs=-1, required=True, metavar="REPORT.json...")
@option(
    "title",
    group=RESULTS,
    default="gmos-deploy: results",
    show_default=True,
    metavar="TEXT",
    help="Title of the page, such as the release that it goes with.",
)
@wide_option
def report_command(out: Path, results: tuple[Path, ...], title: str, wide: bool) -> None:
    """One page of many results, to go with a release: what was found, made from what, on which machine.

    REPORT.json is the result.json of gmos-parity, gmos-profile, gmos-export calibrate or benchmarks/acceptance.py, or
    what gmos-eval --json FILE and gmos-doctor --json wrote; which of them is found by what is in it. OUT.md is written
    as Markdown.

    Exit status: 0 written, whatever the results say, 2 a file is none of these, or the page cannot be written.
    """
    from ..evaluation.summary.command import write_summary  # noqa: PLC0415 - the work

    write_summary(out, results, title=title, wide=wide)
