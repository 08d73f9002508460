"""Turns folders and lists into one job per sequence, and gathers what is missing before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image

from ...errors import GmosError
from ...runtime.video.frame_directory import FRAME_SUFFIXES, UNREADABLE
from .datasets import MASK_SUFFIXES, DatasetSplit, object_folders
from .davis import DavisSequence
from .fbms_annotation import fbms_annotations
from .moca import BoxSequence, read_boxes
from .mos_i import MosISequence
from .motion_grouping import ForegroundSequence
from .results import merge_notes
from .sequence_trees import (
    Missing,
    list_frames,
    pair_by_name,
    pair_by_position,
    require_directory,
    unlisted_sequences,
)
from .time_annotation import read_time_annotation, select_rows

Job = TypeVar("Job", MosISequence, DavisSequence, ForegroundSequence, BoxSequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Generic[Job]):
    """The jobs of the sequences that are complete, what others lack, and how many sequences there are."""

    jobs: list[Job]
    missing: Missing
    total: int
    notes: dict[str, int]


def prepare_mos_i(
    dataset: str, predictions: Path, annotations: Path, time_annotation: Path, *, frame_level: bool
) -> Prepared[MosISequence]:
    """The jobs of a MOS-I benchmark; frames are paired by position, as the published script does."""
    rows, dropped = select_rows(read_time_annotation(time_annotation), dataset, time_annotation)
    require_directory(annotations, "annotations")
    missing, jobs, differing = Missing(), [], 0
    for row in rows:
        annotated, predicted = list_frames(annotations / row.name), list_frames(predictions / row.name)
        for folder, frames in ((annotations, annotated), (predictions, predicted)):
            if not frames:
                missing.add(row.name, f"{folder / row.name}/*.png")
        if not annotated or not predicted:
            continue
        differing += row.annotated_frames is not None and row.annotated_frames != len(annotated)
        motion_file = predictions / f"{row.name}___motion.npy"
        jobs.append(
            MosISequence(
                name=row.name,
                pairs=pair_by_position(annotated, predicted),
                row=row,
                motion_file=motion_file if motion_file.exists() else None,
                frame_level=frame_level,
            )
        )
    notes = {
        "rows_without_motion": dropped,
        "frame_count_differs_from_csv": differing,
        "unlisted_prediction_sequences": unlisted_sequences(predictions, {row.name for row in rows}),
    }
    return Prepared(jobs=jobs, missing=missing, total=len(rows), notes=merge_notes([notes]))


def prepare_davis(split: DatasetSplit, predictions: Path, *, merged: bool) -> Prepared[DavisSequence]:
    """The jobs of a DAVIS benchmark; frames are paired by name."""
    missing, jobs = split.missing(frames=False, annotations=True), []
    for sequence in split.sequences:
        folder = sequence.annotation_dir
        annotated = list_frames(folder) if folder is not None else []
        frames = [] if sequence.frame_dir == folder else list_frames(sequence.frame_dir, FRAME_SUFFIXES)
        pairs, absent = pair_by_name(
            [(path.stem, (path,)) for path in annotated],
            list_frames(predictions / sequence.name),
            [frame.stem for frame in frames] or None,
        )
        _add_absent(missing, sequence.name, predictions, absent)
        jobs.append(DavisSequence(name=sequence.name, pairs=pairs, merged=merged))
    return _complete(jobs, missing, split, predictions)


def prepare_foreground(split: DatasetSplit, predictions: Path) -> Prepared[ForegroundSequence]:
    """The jobs of SegTrackv2 or FBMS-59; frames are paired by name, or by position in the video."""
    missing, jobs = split.missing(frames=True, annotations=True), []
    for sequence in split.sequences:
        if sequence.name in missing.sequences or sequence.annotation_dir is None:
            continue
        frame_names = [frame.stem for frame in list_frames(sequence.frame_dir, FRAME_SUFFIXES)]
        own_fbms = split.dataset == "fbms59" and sequence.annotation_dir.name == "GroundTruth"
        if own_fbms:
            annotated = fbms_annotations(sequence.annotation_dir, frame_names)
        else:
            annotated = _merged_annotations(sequence.annotation_dir, frame_names)
        pairs, absent = pair_by_name(annotated, list_frames(predictions / sequence.name), frame_names)
        _add_absent(missing, sequence.name, predictions, absent)
        jobs.append(ForegroundSequence(name=sequence.name, pairs=pairs, fbms=own_fbms))
    return _complete(jobs, missing, split, predictions)


def prepare_boxes(split: DatasetSplit, predictions: Path, box_csv: Path) -> Prepared[BoxSequence]:
    """The jobs of MoCA: the videos that have boxes; frames without a prediction are counted, not scored."""
    boxes, csv_notes = read_boxes(box_csv)
    known = {sequence.name: sequence for sequence in split.sequences}
    missing, jobs = Missing(), []
    for video in sorted(set(boxes) & set(known)):
        frames = list_frames(known[video].frame_dir, FRAME_SUFFIXES)
        predicted = list_frames(predictions / video)
        if not predicted:
            missing.add(video, f"{predictions / video}/*.png")
            continue
        annotated: list[tuple[str, tuple[Path, ...]]] = [(name, ()) for name in sorted(boxes[video])]
        pairs, absent = pair_by_name(annotated, predicted, [frame.stem for frame in frames] or None)
        notes = dict(pairs.notes)
        notes["frames_without_box"] = notes.pop("unpaired_prediction_frames", 0)
        notes["unpaired_annotation_frames"] = len(absent)
        jobs.append(
            BoxSequence(
                name=video,
                frames=tuple(
                    (name, path, boxes[video][name])
                    for name, path in zip(pairs.names, pairs.predictions, strict=True)
                ),
                frame_wh=_image_wh(frames[0]) if frames else None,
                notes=merge_notes([notes]),
            )
        )
    if not jobs and not missing.lines:
        raise GmosError(
            f"{box_csv}: no video of it is in {split.root}: check that both are of the same release"
        )
    notes = csv_notes | {"unlisted_prediction_sequences": unlisted_sequences(predictions, set(boxes))}
    total = len(jobs) + len(missing.sequences)
    return Prepared(jobs=jobs, missing=missing, total=total, notes=merge_notes([notes]))


def _merged_annotations(annotation_dir: Path, frame_names: list[str]) -> list[tuple[str, tuple[Path, ...]]]:
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


def _add_absent(missing: Missing, sequence: str, predictions: Path, names: list[str]) -> None:
    for name in names:
        missing.add(sequence, str(predictions / sequence / f"{name}.png"))


def _complete(jobs: list[Job], missing: Missing, split: DatasetSplit, predictions: Path) -> Prepared[Job]:
    names = {sequence.name for sequence in split.sequences}
    return Prepared(
        jobs=[job for job in jobs if job.name not in missing.sequences],
        missing=missing,
        total=len(names),
        notes=merge_notes([{"unlisted_prediction_sequences": unlisted_sequences(predictions, names)}]),
    )


def _image_wh(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except UNREADABLE as error:
        raise GmosError(
            f"{path}: unreadable frame ({error}): its size scales the boxes; copy it again"
        ) from None
