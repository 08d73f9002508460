"""The gmos-eval commands: options in, tables and report files out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ...errors import GmosError
from ..report.files import summary_json, write_json
from ..report.options import ReportOptions, report_options
from . import davis, moca, mos_i, motion_grouping
from .datasets import (
    DatasetSequence,
    DatasetSplit,
    dataset_split,
    find_boxes,
    find_time_annotation,
    gmos_2k_annotations,
)
from .motion_summary import summarise_time_annotation, time_annotation_notes
from .preparation import prepare_boxes, prepare_davis, prepare_foreground, prepare_mos_i
from .report_table import summary_tables
from .run import run_evaluation, show
from .sequence_trees import predictions_folder, read_sequence_list, require_directory
from .time_annotation import read_time_annotation

Command = TypeVar("Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)


def _res_dir(text: str) -> Callable[[Command], Command]:
    return click.option(
        "--res_dir",
        "--res-dir",
        "res_dir",
        type=_PATH,
        required=True,
        metavar="DIR",
        help=text + " Required.",
    )


def _root(text: str) -> Callable[[Command], Command]:
    return click.option("--root", type=_PATH, metavar="DIR", help=text)


_sequences_option = click.option(
    "--sequences",
    type=_PATH,
    metavar="FILE",
    help="List of the sequences to evaluate, one name per line. Default: the dataset's own list.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def evaluate() -> None:
    """Score predicted masks with the numbers of the published benchmarks."""


@evaluate.command("mos-i")
@click.option(
    "--dataset",
    type=click.Choice(["davis17-im", "ytvos19-im"]),
    required=True,
    help="Benchmark split: which rows of the CSV count. Required.",
)
@_res_dir("Predictions: a folder per sequence of label-map PNGs, or a gmos-run output folder.")
@click.option(
    "--anno_dir",
    "--anno-dir",
    "anno_dir",
    type=_PATH,
    metavar="DIR",
    help="Annotations: a folder per sequence of palette PNGs. Default: the split's folder under --root.",
)
@click.option(
    "--time_anno_csv",
    "--time-anno-csv",
    "time_anno_csv",
    type=_PATH,
    metavar="CSV",
    help="Motion annotations: frame intervals per object. Default: time_annotation.csv under --root.",
)
@_root("GMOS-2K folder, with annotations/ and time_annotation.csv. Default: none.")
@click.option(
    "--frame_level_match",
    "--frame-level-match",
    "frame_level_match",
    is_flag=True,
    help="Also match objects frame by frame, not only once per sequence. Default: off.",
)
@report_options
def mos_i_command(
    *,
    dataset: str,
    res_dir: Path,
    anno_dir: Path | None,
    time_anno_csv: Path | None,
    root: Path | None,
    frame_level_match: bool,
    options: ReportOptions,
) -> None:
    """MOS-I: J_mov, mtIoU and false positives on the frames where objects move."""
    if root is not None:
        require_directory(root, "GMOS-2K")
        anno_dir = anno_dir or gmos_2k_annotations(dataset, root)
        time_anno_csv = time_anno_csv or find_time_annotation(root)
    if anno_dir is None or time_anno_csv is None:
        raise GmosError(
            "mos-i needs --anno_dir and --time_anno_csv, or --root of a GMOS-2K folder that has both"
        )
    predictions = predictions_folder(res_dir, "mos-i")
    prepared = prepare_mos_i(dataset, predictions, anno_dir, time_anno_csv, frame_level=frame_level_match)
    run_evaluation(
        prepared,
        mos_i.evaluate_mos_i_sequence,
        lambda sequences: mos_i.overall_mos_i(sequences, frame_level=frame_level_match),
        evaluator="mos-i",
        dataset=dataset,
        frame_score=mos_i.FRAME_SCORE,
        sources={"predictions": predictions, "annotations": anno_dir, "time annotations": time_anno_csv},
        options=options,
    )


@evaluate.command("davis")
@click.option(
    "--dataset",
    type=click.Choice(["davis16", "davis17", "davis16-m", "davis17-m"]),
    default="davis17",
    show_default=True,
    help="davis16 merges all objects; davis17 matches proposals to objects; -m needs --sequences.",
)
@_res_dir("Predictions: a folder per sequence of label-map PNGs, or a gmos-run output folder.")
@_root(
    "DAVIS folder, with JPEGImages, Annotations or Annotations_unsupervised, and ImageSets. Default: none."
)
@click.option(
    "--anno_dir",
    "--anno-dir",
    "anno_dir",
    type=_PATH,
    metavar="DIR",
    help="Annotations: a folder per sequence. Default: the dataset's folder under --root.",
)
@_sequences_option
@report_options
def davis_command(
    *,
    dataset: str,
    res_dir: Path,
    root: Path | None,
    anno_dir: Path | None,
    sequences: Path | None,
    options: ReportOptions,
) -> None:
    """DAVIS J and F, unsupervised, on all frames."""
    predictions = predictions_folder(res_dir, "objects")
    if root is not None:
        split = dataset_split(dataset, root, sequence_list=sequences)
        if anno_dir is not None:
            split = _with_annotations(split, anno_dir)
    elif anno_dir is None:
        raise GmosError("davis needs --root of the DAVIS folder, or --anno_dir of its annotations")
    else:
        split = _folder_split(dataset, anno_dir, sequences)
    merged = dataset.startswith("davis16")
    run_evaluation(
        prepare_davis(split, predictions, merged=merged),
        davis.evaluate_davis_sequence,
        davis.overall_davis,
        evaluator="davis",
        dataset=dataset,
        frame_score=davis.FRAME_SCORE,
        sources={"predictions": predictions, "annotations": anno_dir or split.root},
        options=options,
        merged=merged,
    )


@evaluate.command("motion-grouping")
@click.option(
    "--dataset",
    type=click.Choice(["segtrackv2", "fbms59"]),
    required=True,
    help="segtrackv2 scores all frames, fbms59 the annotated ones. Required.",
)
@_res_dir("Predictions: a folder per sequence of label-map PNGs, or a gmos-run output folder.")
@click.option(
    "--root",
    type=_PATH,
    required=True,
    metavar="DIR",
    help="Dataset folder: JPEGImages with Annotations or GroundTruth, or FBMS-59's own Testset. Required.",
)
@_sequences_option
@report_options
def motion_grouping_command(
    *, dataset: str, res_dir: Path, root: Path, sequences: Path | None, options: ReportOptions
) -> None:
    """SegTrackv2 and FBMS-59 by the motion-grouping protocol: J of all objects merged."""
    predictions = predictions_folder(res_dir, "objects")
    split = dataset_split(dataset, root, sequence_list=sequences)
    prepared = prepare_foreground(split, predictions)
    run_evaluation(
        prepared,
        motion_grouping.evaluate_foreground_sequence,
        motion_grouping.overall_foreground,
        evaluator="motion-grouping",
        dataset=dataset,
        frame_score=motion_grouping.FRAME_SCORE,
        sources={"predictions": predictions, "dataset": root},
        options=options,
        merged=True,
        fbms=any(job.fbms for job in prepared.jobs),
    )


@evaluate.command("moca")
@_res_dir("Predictions: a folder per video of grey masks or label maps, or a gmos-run output folder.")
@click.option(
    "--root",
    type=_PATH,
    required=True,
    metavar="DIR",
    help="MoCA folder, with JPEGImages and annotations.csv. Required.",
)
@click.option(
    "--anno_csv",
    "--anno-csv",
    "anno_csv",
    type=_PATH,
    metavar="CSV",
    help="Boxes [_, x, y, width, height] in pixels, one per frame. Default: annotations.csv under --root.",
)
@_sequences_option
@report_options
def moca_command(
    *, res_dir: Path, root: Path, anno_csv: Path | None, sequences: Path | None, options: ReportOptions
) -> None:
    """MoCA by the motion-grouping protocol: IoU of boxes and success rates."""
    predictions = predictions_folder(res_dir, "boxes")
    split = dataset_split("moca", root, sequence_list=sequences)
    boxes = anno_csv or find_boxes(root)
    run_evaluation(
        prepare_boxes(split, predictions, boxes),
        moca.evaluate_box_sequence,
        moca.overall_moca,
        evaluator="moca",
        dataset="moca",
        frame_score=moca.FRAME_SCORE,
        sources={"predictions": predictions, "dataset": root, "boxes": boxes},
        options=options,
        merged=True,
    )


@evaluate.command("gmos-2k")
@click.argument("csv_path", metavar="CSV", type=_PATH)
@click.option(
    "--json", "json_path", type=_PATH, metavar="FILE", help="Write the counts as JSON. Default: not written."
)
def gmos_2k_command(csv_path: Path, json_path: Path | None) -> None:
    """Check a motion-annotation CSV and count what it holds, per dataset and split."""
    rows = read_time_annotation(csv_path)
    splits, notes = summarise_time_annotation(rows), time_annotation_notes(rows)
    show(summary_tables(splits, notes))
    if json_path is not None:
        write_json(json_path, summary_json(csv_path, splits, notes))


def _with_annotations(split: DatasetSplit, anno_dir: Path) -> DatasetSplit:
    require_directory(anno_dir, "annotations")
    return DatasetSplit(
        dataset=split.dataset,
        root=split.root,
        fps=split.fps,
        sequences=tuple(
            DatasetSequence(name=s.name, frame_dir=s.frame_dir, annotation_dir=anno_dir / s.name)
            for s in split.sequences
        ),
    )


def _folder_split(dataset: str, anno_dir: Path, sequences: Path | None) -> DatasetSplit:
    """A split of the sequences in an annotation folder, where the rest of the dataset is not at hand."""
    require_directory(anno_dir, "annotations")
    if sequences is not None:
        names = read_sequence_list(sequences)
    elif dataset.endswith("-m"):
        raise GmosError(f"{dataset}: needs the list of its sequences: give the file with --sequences")
    else:
        names = sorted(entry.name for entry in anno_dir.iterdir() if entry.is_dir())
    if not names:
        raise GmosError(f"{anno_dir}: no sequence folders: expected one folder of PNGs per sequence")
    return DatasetSplit(
        dataset=dataset,
        root=anno_dir,
        fps=24.0,
        sequences=tuple(
            DatasetSequence(name=name, frame_dir=anno_dir / name, annotation_dir=anno_dir / name)
            for name in names
        ),
    )
