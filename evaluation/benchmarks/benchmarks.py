"""The benchmarks: how each finds its annotations, what scores a sequence, and what the whole scores.

Whatever is missing is gathered before anything runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ...runtime.video.frame_directory import FRAME_SUFFIXES
from . import davis, mos_i, motion_grouping
from .datasets import (
    MASK_SUFFIXES,
    DatasetSequence,
    DatasetSplit,
    dataset_split,
    find_boxes,
    find_time_annotation,
    gmos_2k_annotations,
    object_folders,
)
from .label_maps import open_image
from .results import SequenceScores
from .sequence_trees import (
    FramePairs,
    Missing,
    list_frames,
    missing_frames,
    pair_by_name,
    pair_by_position,
    predictions_folder,
    read_sequence_list,
    require_directory,
    unlisted_sequences,
)
from .time_annotation import read_time_annotation, select_rows

Job = Callable[[], SequenceScores]
"""Scores one sequence: a part of a module-level function, as it runs in other processes."""

Annotations = Sequence[tuple[str, tuple[Path, ...]]]
"""Annotated frames by name, each with its files."""


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
class Prepared:
    """What a benchmark is about to score.

    Attributes:
        jobs: of the sequences that are complete, by name.
        missing: what the others lack.
        total: how many sequences there are.
        notes: what was counted on the way.
        sources: where everything came from, by what it is.
        overall: the benchmark's numbers from those of its sequences.
        frame_score: what the score of a frame is, in words.
        merged: all objects are scored as one; for pictures, as the next.
        fbms: annotations are in FBMS-59's own form.
    """

    jobs: Mapping[str, Job]
    missing: Missing
    total: int
    notes: Counter[str]
    sources: Mapping[str, Path]
    overall: Callable[[list[SequenceScores]], dict[str, float]]
    frame_score: str
    merged: bool = True
    fbms: bool = False


def load_benchmark(name: str, request: BenchmarkRequest) -> Prepared:
    """Find and check everything that a benchmark reads.

    Raises:
        GmosError: a folder, list or annotation is missing or cannot be read.
    """
    kind, prepare = BENCHMARKS[name]
    predictions = predictions_folder(request.res_dir, kind)
    prepared = prepare(request, predictions)
    return replace(prepared, sources={"predictions": predictions, **prepared.sources})


def _mos_i(request: BenchmarkRequest, predictions: Path) -> Prepared:
    """Frames are paired by position, as the published script does."""
    annotations, motion = request.anno_dir, request.time_anno_csv
    if request.root is not None:
        require_directory(request.root, "GMOS-2K")
        annotations = annotations or gmos_2k_annotations(request.dataset, request.root)
        motion = motion or find_time_annotation(request.root)
    if annotations is None or motion is None:
        raise GmosError(
            "mos-i needs --anno_dir and --time_anno_csv, or --root of a GMOS-2K folder that has both"
        )
    rows, dropped = select_rows(read_time_annotation(motion), request.dataset, motion)
    require_directory(annotations, "annotations")
    missing, frame_level = Missing(), request.frame_level_match
    jobs: dict[str, Job] = {}
    unlisted = unlisted_sequences(predictions, {row.name for row in rows})
    notes = Counter(rows_without_motion=dropped, unlisted_prediction_sequences=unlisted)
    for row in rows:
        annotated, predicted = list_frames(annotations / row.name), list_frames(predictions / row.name)
        for folder, frames in ((annotations, annotated), (predictions, predicted)):
            if not frames:
                missing.add(row.name, missing_frames(folder / row.name))
        if annotated and predicted:
            notes["frame_count_differs_from_csv"] += row.annotated_frames not in (None, len(annotated))
            motion_file = predictions / f"{row.name}___motion.npy"
            jobs[row.name] = partial(
                mos_i.evaluate_mos_i_sequence,
                row,
                pair_by_position(annotated, predicted),
                motion_file if motion_file.exists() else None,
                frame_level=frame_level,
            )
    return Prepared(
        jobs=jobs,
        missing=missing,
        total=len(rows),
        notes=notes,
        sources={"annotations": annotations, "time annotations": motion},
        overall=partial(mos_i.overall_mos_i, frame_level=frame_level),
        frame_score=mos_i.FRAME_SCORE,
        merged=False,
    )


def _davis(request: BenchmarkRequest, predictions: Path) -> Prepared:
    """Frames are paired by name."""
    dataset, annotations = request.dataset, request.anno_dir
    if request.root is not None:
        split = dataset_split(dataset, request.root, sequence_list=request.sequences)
        if annotations is not None:
            require_directory(annotations, "annotations")
            moved = (replace(one, annotation_dir=annotations / one.name) for one in split.sequences)
            split = replace(split, sequences=tuple(moved))
    elif annotations is None:
        raise GmosError("davis needs --root of the DAVIS folder, or --anno_dir of its annotations")
    else:
        split = _folder_split(dataset, annotations, request.sequences)
    missing, merged = split.missing(frames=False, annotations=True), dataset.startswith("davis16")
    jobs: dict[str, Job] = {}
    for sequence in split.sequences:
        folder = sequence.annotation_dir
        annotated = [(path.stem, (path,)) for path in (list_frames(folder) if folder is not None else [])]
        frames = [] if sequence.frame_dir == folder else _frame_names(sequence)
        pairs = _pairs(sequence.name, annotated, predictions, frames, missing)
        jobs[sequence.name] = partial(davis.evaluate_davis_sequence, sequence.name, pairs, merged=merged)
    return _of_split(
        split,
        predictions,
        jobs,
        missing,
        sources={"annotations": annotations or split.root},
        overall=davis.overall_davis,
        frame_score=davis.FRAME_SCORE,
        merged=merged,
    )


def _motion_grouping(request: BenchmarkRequest, predictions: Path) -> Prepared:
    """SegTrackv2 or FBMS-59; frames are paired by name, or by position in the video."""
    split = _split(request)
    missing, fbms = split.missing(frames=True, annotations=True), False
    jobs: dict[str, Job] = {}
    for sequence in split.sequences:
        folder = sequence.annotation_dir
        if sequence.name in missing.sequences or folder is None:
            continue
        frames, own = _frame_names(sequence), split.dataset == "fbms59" and folder.name == "GroundTruth"
        fbms |= own
        annotated = (
            motion_grouping.fbms_annotations(folder, frames) if own else _merged_annotations(folder, frames)
        )
        pairs = _pairs(sequence.name, annotated, predictions, frames, missing)
        jobs[sequence.name] = partial(
            motion_grouping.evaluate_foreground_sequence, sequence.name, pairs, fbms=own
        )
    return _of_split(
        split,
        predictions,
        jobs,
        missing,
        sources={"dataset": split.root},
        overall=motion_grouping.overall_foreground,
        frame_score=motion_grouping.FRAME_SCORE,
        fbms=fbms,
    )


def _moca(request: BenchmarkRequest, predictions: Path) -> Prepared:
    """The videos that have boxes; frames without a prediction are counted, not scored."""
    split = _split(request)
    box_csv = request.anno_csv or find_boxes(split.root)
    boxes, notes = motion_grouping.read_boxes(box_csv)
    missing = Missing()
    jobs: dict[str, Job] = {}
    for sequence in sorted(split.sequences, key=lambda one: one.name):
        video = sequence.name
        if video not in boxes:
            continue
        predicted = list_frames(predictions / video)
        if not predicted:
            missing.add(video, missing_frames(predictions / video))
            continue
        frames = list_frames(sequence.frame_dir, FRAME_SUFFIXES)
        annotated: Annotations = [(name, ()) for name in sorted(boxes[video])]
        pairs, absent = pair_by_name(annotated, predicted, [frame.stem for frame in frames])
        pairs.notes["frames_without_box"] = pairs.notes.pop("unpaired_prediction_frames")
        pairs.notes["unpaired_annotation_frames"] = len(absent)
        frame_wh = open_image(frames[0], header_only=True).size if frames else None
        jobs[video] = partial(motion_grouping.evaluate_box_sequence, video, pairs, boxes[video], frame_wh)
    if not jobs and not missing.lines:
        raise GmosError(
            f"{box_csv}: no video of it is in {split.root}: check that both are of the same release"
        )
    return Prepared(
        jobs=jobs,
        missing=missing,
        total=len(jobs) + len(missing.sequences),
        notes=notes + Counter(unlisted_prediction_sequences=unlisted_sequences(predictions, set(boxes))),
        sources={"dataset": split.root, "boxes": box_csv},
        overall=motion_grouping.overall_moca,
        frame_score=motion_grouping.BOX_FRAME_SCORE,
    )


BENCHMARKS: Mapping[str, tuple[str, Callable[[BenchmarkRequest, Path], Prepared]]] = {
    "mos-i": ("mos-i", _mos_i),
    "davis": ("objects", _davis),
    "motion-grouping": ("objects", _motion_grouping),
    "moca": ("boxes", _moca),
}
"""By the name of their command: what kind of gmos-run results it reads, and what finds and checks its files."""


def _split(request: BenchmarkRequest) -> DatasetSplit:
    if request.root is None:
        raise GmosError(f"{request.dataset} needs --root, the dataset's own folder")
    return dataset_split(request.dataset, request.root, sequence_list=request.sequences)


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
    sequences = tuple(DatasetSequence(name, folder / name, folder / name) for name in names)
    return DatasetSplit(dataset=dataset, root=folder, sequences=sequences)


def _frame_names(sequence: DatasetSequence) -> list[str]:
    return [frame.stem for frame in list_frames(sequence.frame_dir, FRAME_SUFFIXES)]


def _pairs(
    sequence: str, annotated: Annotations, predictions: Path, frame_names: list[str], missing: Missing
) -> FramePairs:
    """Frames paired by name; those without a prediction are missing."""
    predicted = list_frames(predictions / sequence)
    pairs, absent = pair_by_name(annotated, predicted, frame_names)
    if absent and not predicted:
        missing.add(sequence, missing_frames(predictions / sequence))
        return pairs
    for name in absent:
        missing.add(sequence, str(predictions / sequence / f"{name}.png"))
    return pairs


def _of_split(
    split: DatasetSplit, predictions: Path, jobs: Mapping[str, Job], missing: Missing, **rest: Any
) -> Prepared:
    names = {sequence.name for sequence in split.sequences}
    return Prepared(
        jobs={name: job for name, job in jobs.items() if name not in missing.sequences},
        missing=missing,
        total=len(names),
        notes=Counter(unlisted_prediction_sequences=unlisted_sequences(predictions, names)),
        **rest,
    )


def _merged_annotations(annotation_dir: Path, frame_names: list[str]) -> Annotations:
    """Annotated frames of a folder, with one file per object folder; named after the video's frames.

    SegTrackv2 names its masks and frames differently; as it annotates every frame, equal counts are
    matched by position.
    """
    folders = [list_frames(folder, MASK_SUFFIXES) for folder in object_folders(annotation_dir)]
    if len({len(folder) for folder in folders}) > 1:
        counts = ", ".join(str(len(folder)) for folder in folders)
        raise GmosError(f"{annotation_dir}: its object folders hold {counts} masks: expected as many in each")
    grouped = list(zip(*folders, strict=True))
    names = [files[0].stem for files in grouped]
    if len(names) == len(frame_names) and not set(names) & set(frame_names):
        names = frame_names
    return list(zip(names, grouped, strict=True))
