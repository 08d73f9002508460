"""The gmos-eval commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options import (
    CONTEXT,
    INPUT,
    PATH,
    RESULTS,
    SPEED,
    Decorator,
    GroupedCommand,
    NamedPath,
    count_option,
    flag,
    option,
    together,
    worst_frames_option,
)

MASKS = "Predictions: a folder per sequence of label-map PNGs, or a gmos-run output folder."
FILE = NamedPath(path_type=Path, dir_okay=False)


def input_option(name: str, text: str, *, metavar: str = "DIR", required: bool = False) -> Decorator[Any]:
    """A folder or file that is read."""
    return option(name, group=INPUT, type=PATH, required=required, metavar=metavar, help=text)


def dataset_option(names: list[str], text: str, **attributes: Any) -> Decorator[Any]:
    """The benchmark's dataset."""
    return option("dataset", group=INPUT, type=click.Choice(names), help=text, **attributes)


def written_option(name: str, text: str) -> Decorator[Any]:
    """A file that is written where it is asked for."""
    return option(
        name, group=RESULTS, type=FILE, metavar="FILE", help=f"Write {text}.  [default: not written]"
    )


sequences_option = input_option(
    "sequences",
    "List of the sequences to evaluate, one name per line.  [default: the dataset's own list]",
    metavar="FILE",
)

report_options = together(
    flag(
        "skip_missing",
        group=INPUT,
        help="Leave out sequences that lack files, and say so, instead of stopping.",
    ),
    written_option("json", "everything as JSON"),
    written_option("csv", "the metrics per sequence and object as CSV"),
    written_option("html", "a page with bars per sequence and the worst frames"),
    worst_frames_option(12, 200, "JSON lists and HTML shows"),
    flag("verbose", group=RESULTS, help="Also print every sequence and object."),
    count_option("jobs", SPEED, 0, "Processes; 0 is one per core, 1 works without any.", least=0, most=256),
)
"""Which reports to write and where, how many cores to use."""


@click.group(name="gmos-eval", context_settings=CONTEXT)
def evaluate_command() -> None:
    """Score predicted masks with the numbers of the published benchmarks."""


@evaluate_command.command("mos-i", cls=GroupedCommand)
@dataset_option(["davis17-im", "ytvos19-im"], "Benchmark split: which rows of the CSV count.", required=True)
@input_option("res_dir", MASKS, required=True)
@input_option("root", "GMOS-2K folder, with annotations/ and time_annotation.csv.  [default: none]")
@input_option(
    "anno_dir",
    "Annotations: a folder per sequence of palette PNGs.  [default: the split's folder under --root]",
)
@input_option(
    "time_anno_csv",
    "Motion annotations: frame intervals per object.  [default: time_annotation.csv under --root]",
    metavar="CSV",
)
@flag("frame_level_match", group=INPUT, help="Also match objects frame by frame, not only once per sequence.")
@report_options
def mos_i_command(**options: Any) -> None:
    """MOS-I: J_mov, mtIoU and false positives on the frames where objects move."""
    evaluate_benchmark("mos-i", **options)


@evaluate_command.command("davis", cls=GroupedCommand)
@dataset_option(
    ["davis16", "davis17", "davis16-m", "davis17-m"],
    "davis16 merges all objects; davis17 matches proposals to objects; -m needs --sequences.",
    default="davis17",
    show_default=True,
)
@input_option("res_dir", MASKS, required=True)
@input_option(
    "root",
    "DAVIS folder, with JPEGImages, Annotations or Annotations_unsupervised, and ImageSets.  [default: none]",
)
@input_option("anno_dir", "Annotations: a folder per sequence.  [default: the dataset's folder under --root]")
@sequences_option
@report_options
def davis_command(**options: Any) -> None:
    """DAVIS J and F, unsupervised, on all frames."""
    evaluate_benchmark("davis", **options)


@evaluate_command.command("motion-grouping", cls=GroupedCommand)
@dataset_option(
    ["segtrackv2", "fbms59"], "segtrackv2 scores all frames, fbms59 the annotated ones.", required=True
)
@input_option("res_dir", MASKS, required=True)
@input_option(
    "root",
    "Dataset folder: JPEGImages with Annotations or GroundTruth, or FBMS-59's own Testset.",
    required=True,
)
@sequences_option
@report_options
def motion_grouping_command(**options: Any) -> None:
    """SegTrackv2 and FBMS-59 by the motion-grouping protocol: J of all objects merged."""
    evaluate_benchmark("motion-grouping", **options)


@evaluate_command.command("moca", cls=GroupedCommand)
@input_option(
    "res_dir",
    "Predictions: a folder per video of grey masks or label maps, or a gmos-run output folder.",
    required=True,
)
@input_option("root", "MoCA folder, with JPEGImages and annotations.csv.", required=True)
@input_option(
    "anno_csv",
    "Boxes [_, x, y, width, height] in pixels, one per frame.  [default: annotations.csv under --root]",
    metavar="CSV",
)
@sequences_option
@report_options
def moca_command(**options: Any) -> None:
    """MoCA by the motion-grouping protocol: IoU of boxes and success rates."""
    evaluate_benchmark("moca", dataset="moca", **options)


@evaluate_command.command("gmos-2k", cls=GroupedCommand)
@click.argument("csv", metavar="CSV", type=PATH)
@written_option("json", "the counts as JSON")
def gmos_2k_command(csv: Path, json: Path | None) -> None:
    """Check a motion-annotation CSV and count what it holds, per dataset and split."""
    from ..evaluation.benchmarks.report import show_summary  # noqa: PLC0415 - here and below: the work

    show_summary(csv, json)


@evaluate_command.command("table", cls=GroupedCommand)
@click.argument("results", type=PATH, nargs=-1, required=True, metavar="RESULT.json...")
@option(
    "format",
    group=RESULTS,
    to="form",
    type=click.Choice(["text", "markdown", "latex", "csv"]),
    default="text",
    show_default=True,
    help="How the table is printed.",
)
@option(
    "metrics",
    group=RESULTS,
    metavar="NAMES",
    help="Columns, by their names in JSON and joined by commas, or all.  [default: those that papers print]",
)
def table_command(results: tuple[Path, ...], form: str, metrics: str | None) -> None:
    """One table of many results: a row for each dataset, metrics in percent as papers print them.

    RESULT.json is what the other commands wrote with --json.
    """
    from ..evaluation.summary.score_table import print_table  # noqa: PLC0415

    print_table(results, form, metrics)


def evaluate_benchmark(name: str, **options: Any) -> None:
    """Score the predictions of a benchmark, show the numbers and write the reports asked for."""
    from ..evaluation.benchmarks.run import run_benchmark  # noqa: PLC0415

    run_benchmark(name, **options)
