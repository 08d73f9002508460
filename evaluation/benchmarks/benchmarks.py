"""The benchmarks: of each how its annotations are read, how a sequence is scored, and what the whole scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import GmosError
from . import davis, moca, mos_i, motion_grouping
from .datasets import (
    DatasetSequence,
    DatasetSplit,
    dataset_split,
    find_boxes,
    find_time_annotation,
    gmos_2k_annotations,
)
from .preparation import Prepared, prepare_boxes, prepare_davis, prepare_foreground, prepare_mos_i
from .results import SequenceScores
from .sequence_trees import predictions_folder, read_sequence_list, require_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRequest:
    """What gmos-eval was asked to score; fields as its options."""

    dataset: str
    res_dir: Path
    root: Path | None = None
    anno_dir: Path | None = None
    anno_csv: Path | None = None
    time_anno_csv: Path | None = None
    sequences: Path | None = None
    frame_level_match: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Prepared sequences, how they add up, and where everything came from, by what it is.

    `merged` scores all objects as one, `fbms` reads annotations in FBMS-59's own form; both are for pictures.
    """

    prepared: Prepared[Any]
    sources: Mapping[str, Path]
    overall: Callable[[list[SequenceScores]], dict[str, float]]
    merged: bool = True
    fbms: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Attributes:
        predictions: what kind of gmos-run results it reads, for `predictions_folder`.
        load: finds and checks the annotations, given a request and the folder of predictions.
        evaluate: scores one prepared sequence; a module-level function, as it runs in other processes.
        frame_score: what the score of a frame is, in words.
    """

    predictions: str
    load: Callable[[BenchmarkRequest, Path], Loaded]
    evaluate: Callable[[Any], SequenceScores]
    frame_score: str


def _load_mos_i(request: BenchmarkRequest, predictions: Path) -> Loaded:
    annotations, motion = request.anno_dir, request.time_anno_csv
    if request.root is not None:
        require_directory(request.root, "GMOS-2K")
        annotations = annotations or gmos_2k_annotations(request.dataset, request.root)
        motion = motion or find_time_annotation(request.root)
    if annotations is None or motion is None:
        raise GmosError(
            "mos-i needs --anno_dir and --time_anno_csv, or --root of a GMOS-2K folder that has both"
        )
    frame_level = request.frame_level_match
    return Loaded(
        prepared=prepare_mos_i(request.dataset, predictions, annotations, motion, frame_level=frame_level),
        sources={"annotations": annotations, "time annotations": motion},
        overall=partial(mos_i.overall_mos_i, frame_level=frame_level),
        merged=False,
    )


def _load_davis(request: BenchmarkRequest, predictions: Path) -> Loaded:
    dataset, annotations = request.dataset, request.anno_dir
    if request.root is not None:
        split = dataset_split(dataset, request.root, sequence_list=request.sequences)
        if annotations is not None:
            split = _with_annotations(split, annotations)
    elif annotations is None:
        raise GmosError("davis needs --root of the DAVIS folder, or --anno_dir of its annotations")
    else:
        split = _folder_split(dataset, annotations, request.sequences)
    merged = dataset.startswith("davis16")
    return Loaded(
        prepared=prepare_davis(split, predictions, merged=merged),
        sources={"annotations": annotations or split.root},
        overall=davis.overall_davis,
        merged=merged,
    )


def _load_foreground(request: BenchmarkRequest, predictions: Path) -> Loaded:
    split = _split(request)
    prepared = prepare_foreground(split, predictions)
    return Loaded(
        prepared=prepared,
        sources={"dataset": split.root},
        overall=motion_grouping.overall_foreground,
        fbms=any(job.fbms for job in prepared.jobs),
    )


def _load_boxes(request: BenchmarkRequest, predictions: Path) -> Loaded:
    split = _split(request)
    boxes = request.anno_csv or find_boxes(split.root)
    return Loaded(
        prepared=prepare_boxes(split, predictions, boxes),
        sources={"dataset": split.root, "boxes": boxes},
        overall=moca.overall_moca,
    )


BENCHMARKS: Mapping[str, Benchmark] = {
    "mos-i": Benchmark(
        predictions="mos-i",
        load=_load_mos_i,
        evaluate=mos_i.evaluate_mos_i_sequence,
        frame_score=mos_i.FRAME_SCORE,
    ),
    "davis": Benchmark(
        predictions="objects",
        load=_load_davis,
        evaluate=davis.evaluate_davis_sequence,
        frame_score=davis.FRAME_SCORE,
    ),
    "motion-grouping": Benchmark(
        predictions="objects",
        load=_load_foreground,
        evaluate=motion_grouping.evaluate_foreground_sequence,
        frame_score=motion_grouping.FRAME_SCORE,
    ),
    "moca": Benchmark(
        predictions="boxes",
        load=_load_boxes,
        evaluate=moca.evaluate_box_sequence,
        frame_score=moca.FRAME_SCORE,
    ),
}
"""By the name of their command."""


def load_benchmark(name: str, request: BenchmarkRequest) -> Loaded:
    """Find and check everything that a benchmark reads.

    Raises:
        GmosError: a folder, list or annotation is missing or cannot be read.
    """
    benchmark = BENCHMARKS[name]
    predictions = predictions_folder(request.res_dir, benchmark.predictions)
    loaded = benchmark.load(request, predictions)
    return replace(loaded, sources={"predictions": predictions, **loaded.sources})


def _split(request: BenchmarkRequest) -> DatasetSplit:
    if request.root is None:
        raise GmosError(f"{request.dataset} needs --root, the dataset's own folder")
    return dataset_split(request.dataset, request.root, sequence_list=request.sequences)


def _with_annotations(split: DatasetSplit, folder: Path) -> DatasetSplit:
    require_directory(folder, "annotations")
    sequences = (replace(sequence, annotation_dir=folder / sequence.name) for sequence in split.sequences)
    return replace(split, sequences=tuple(sequences))


def _folder_split(dataset: str, folder: Path, listed: Path | None) -> DatasetSplit:
    """A split of the sequences in an annotation folder, where the rest of the dataset is not at hand."""
    require_directory(folder, "annotations")
    if listed is not None:
        names = read_sequence_list(listed)
    elif dataset.endswith("-m"):
        raise GmosError(f"{dataset}: needs the list of its sequences: give the file with --sequences")
    else:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not names:
        raise GmosError(f"{folder}: no sequence folders: expected one folder of PNGs per sequence")
    return DatasetSplit(
        dataset=dataset,
        root=folder,
        fps=24.0,
        sequences=tuple(
            DatasetSequence(name=name, frame_dir=folder / name, annotation_dir=folder / name)
            for name in names
        ),
    )
