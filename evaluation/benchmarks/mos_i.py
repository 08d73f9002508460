"""MOS-I: masks of moving objects in the frames where they move (J_mov, mtIoU, false positives)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...errors import GmosError
from ...runtime.files.array_files import read_array
from ...runtime.pipeline.mask_overlap import iou_matrix, match_rows_to_columns
from .label_maps import LABEL_LIMIT, LabelMap, joint_histogram, read_label_pairs, resize_label
from .results import FrameScore, ObjectScores, SequenceScores
from .sequence_trees import FramePairs
from .time_annotation import MotionRow

THRESHOLD_STEPS = range(10)
"""mtIoU's thresholds .5, .55, … .95 as (10 + k) / 20, so that they are compared in integers."""

MOTION_GATE = 0.5
"""A predicted mask counts where its value in `<sequence>___motion.npy` is above this."""

_TEMPORAL_EPSILON = 1e-8
"""Added to mtIoU's denominator by the published script."""

Counts = npt.NDArray[np.int64]
Ious = npt.NDArray[np.float32]
Gate = npt.NDArray[np.bool_]

FRAME_SCORE = "mean IoU over the moving objects and the false positives of the frame, which count 0"


class Overlaps(NamedTuple):
    """Pixel counts: int64 intersections (20 predicted, 20 annotated), areas (20,); of a sequence with T before."""

    intersections: Counts
    predicted: Counts
    annotated: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class MosIScores:
    """One sequence under one way of matching.

    `matched` is the predicted channel of each annotated channel, (T, 20); `ious` their IoU, (T, 20)
    float32. `object_j` maps an annotated label to its J_mov; objects without a moving frame are absent.
    `mtiou_per_threshold` has 10 values. `occluded` counts true positives without any pixel.
    """

    matched: npt.NDArray[np.intp]
    ious: Ious
    object_j: dict[int, float]
    mtiou_per_threshold: tuple[float, ...]
    mtiou: float
    fp_count: float
    occluded: int


def count_overlaps(annotation: LabelMap, prediction: LabelMap) -> Overlaps:
    """The counts of one frame; labels above 20 are background.

    A prediction of another size is resized label by label.
    """
    side = LABEL_LIMIT + 1
    annotated = _within_limit(annotation)
    if annotation.hw == prediction.hw:
        joint = joint_histogram(_within_limit(prediction), annotated, side)
        return Overlaps(joint[1:, 1:], joint[1:, :].sum(axis=1), joint[:, 1:].sum(axis=0))
    intersections = np.zeros((LABEL_LIMIT, LABEL_LIMIT), np.int64)
    predicted = np.zeros(LABEL_LIMIT, np.int64)
    for label in prediction.present:
        if 0 < label <= LABEL_LIMIT:
            counts = np.bincount(
                annotated[resize_label(prediction.labels, label, annotation.hw)], minlength=side
            )
            intersections[label - 1] = counts[1:]
            predicted[label - 1] = counts.sum()
    return Overlaps(intersections, predicted, np.bincount(annotated.ravel(), minlength=side)[1:])


def _within_limit(label_map: LabelMap) -> npt.NDArray[np.uint8]:
    if not label_map.above_limit:
        return label_map.labels
    return np.where(label_map.labels > LABEL_LIMIT, np.uint8(0), label_map.labels)


def gate_overlaps(overlaps: Overlaps, moving: Gate, kept: Gate | None) -> Overlaps:
    """Clear annotated masks where `moving` (T, 20) is false and predicted ones where `kept` (T, 20) is."""
    kept = np.ones_like(moving) if kept is None else kept
    return Overlaps(
        intersections=overlaps.intersections * kept[:, :, None] * moving[:, None, :],
        predicted=overlaps.predicted * kept,
        annotated=overlaps.annotated * moving,
    )


def score_overlaps(overlaps: Overlaps, moving: Gate, *, frame_level: bool) -> MosIScores:
    """The metrics of one sequence from its gated pixel counts.

    Args:
        overlaps: counts after `gate_overlaps`.
        moving: bool (T, 20), whether an interval of object c + 1 covers frame t.
        frame_level: match predictions to annotations once per frame instead of once per sequence.
    """
    frames = len(moving)
    ious = np.stack([iou_matrix(*frame) for frame in zip(*overlaps, strict=True)])
    if frame_level:
        matched = np.stack([match_rows_to_columns(frame) for frame in ious])
    else:
        # float32, as published: a float64 mean would break ties between equal costs differently.
        order = match_rows_to_columns(ious.mean(axis=0, dtype=np.float32))
        matched = np.broadcast_to(order, (frames, LABEL_LIMIT))
    time, channel = np.arange(frames)[:, None], np.arange(LABEL_LIMIT)[None, :]
    matched_ious = ious[time, matched, channel]
    predicted = overlaps.predicted[time, matched]
    intersections = overlaps.intersections[time, matched, channel]
    unions = predicted + overlaps.annotated - intersections
    empty = (unions == 0) & moving
    denominator = int((overlaps.predicted > 0).sum()) + int(moving.sum())
    per_threshold = []
    for step in THRESHOLD_STEPS:
        hits = int((moving & ((20 * intersections > (10 + step) * unions) | empty)).sum())
        per_threshold.append(hits / (denominator - hits + _TEMPORAL_EPSILON))
    false_positives = ((predicted > 0) & ~moving).sum(axis=1)
    return MosIScores(
        matched=matched,
        ious=matched_ious,
        object_j={
            int(c) + 1: float(matched_ious[moving[:, c], c].mean(dtype=np.float32))
            for c in np.flatnonzero(moving.sum(axis=0))
        },
        mtiou_per_threshold=tuple(per_threshold),
        mtiou=float(np.mean(per_threshold)),
        fp_count=float(false_positives.astype(np.float32).mean(dtype=np.float32)),
        occluded=int(empty.sum()),
    )


def evaluate_mos_i_sequence(
    row: MotionRow, pairs: FramePairs, motion_file: Path | None, *, frame_level: bool
) -> SequenceScores:
    """Read one sequence frame by frame and score it.

    Args:
        row: the sequence in the CSV.
        pairs: its frames.
        motion_file: its `___motion.npy`, if it has one.
        frame_level: also match frame by frame.

    Raises:
        GmosError: no frame is paired, or a label map or the motion file cannot be used.
    """
    frames = len(pairs.frames)
    if frames == 0:
        raise GmosError(f"{row.name}: no frame to pair: expected PNGs in both folders")
    notes = Counter(pairs.notes)
    overlaps, present = _read_overlaps(pairs, notes)
    moving = row.moving(frames)
    kept = _read_motion_gate(motion_file, frames, notes) if motion_file else None
    if kept is not None:
        notes["motion_gated_masks"] += int(((overlaps.predicted > 0) & ~kept).sum())
    _note_objects(row, frames, present, moving, notes)
    gated = gate_overlaps(overlaps, moving, kept)
    levels = {
        suffix: score_overlaps(gated, moving, frame_level=bool(suffix)) for suffix in suffixes(frame_level)
    }
    scores = levels[""]
    notes["occluded_true_positives"] += scores.occluded
    notes["mtiou_above_one"] += any(level.mtiou > 1 for level in levels.values())
    metrics: dict[str, float] = {}
    for suffix, level in levels.items():
        # The published per-sequence figure; the benchmark's own averages objects, not sequences.
        metrics["j_mov" + suffix] = (
            float(np.mean(list(level.object_j.values()))) if level.object_j else np.nan
        )
        metrics["mtiou" + suffix] = level.mtiou
        metrics["fp_count" + suffix] = level.fp_count
    ever_predicted = gated.predicted.sum(axis=0)
    matched = {c + 1: int(p) + 1 for c, p in enumerate(scores.matched[0]) if ever_predicted[p]}
    return SequenceScores(
        name=row.name,
        metrics=metrics,
        objects=tuple(
            ObjectScores(
                label=label,
                matched=matched.get(label),
                metrics={"j_mov" + suffix: level.object_j[label] for suffix, level in levels.items()},
            )
            for label in scores.object_j
        ),
        frames=_frame_scores(pairs, scores, gated, moving, overlaps.predicted > gated.predicted),
        notes=notes,
        matching={predicted: annotated for annotated, predicted in matched.items()},
    )


def suffixes(frame_level: bool) -> tuple[str, ...]:
    """Of the metrics' names, by way of matching."""
    return ("", "_frame_level") if frame_level else ("",)


def _read_overlaps(pairs: FramePairs, notes: Counter[str]) -> tuple[Overlaps, set[int]]:
    """Pixel counts of every pair, before any gate, and the annotated labels that occur."""
    counts: list[Overlaps] = []
    present: set[int] = set()
    for annotation, prediction in read_label_pairs(pairs.frames, notes):
        present.update(label for label in annotation.present if 0 < label <= LABEL_LIMIT)
        notes["ignored_prediction_labels"] += bool(prediction.above_limit)
        notes["ignored_annotation_labels"] += bool(annotation.above_limit)
        notes["resized_predictions"] += annotation.hw != prediction.hw
        counts.append(count_overlaps(annotation, prediction))
    return Overlaps(*(np.stack(column) for column in zip(*counts, strict=True))), present


def _read_motion_gate(path: Path, frames: int, notes: Counter[str]) -> Gate:
    """Whether each predicted mask counts, bool (T, 20), from an array (>= T, 20, K)."""
    try:
        motion = read_array(path)
    except (OSError, ValueError) as error:
        raise GmosError(f"{path}: unreadable motion file ({error}): expected a .npy array") from None
    if motion.dtype.kind not in "fiub":
        raise GmosError(f"{path}: not an array of numbers: expected float (frames, {LABEL_LIMIT}, 1)")
    if motion.ndim != 3 or motion.shape[1] != LABEL_LIMIT or motion.shape[0] < frames or not motion.shape[2]:
        raise GmosError(
            f"{path}: shape {motion.shape}: expected ({frames} or more frames, {LABEL_LIMIT}, 1 or more),"
            " one value per predicted label"
        )
    values = motion[:frames, :, 0]
    if values.dtype.kind == "f":
        notes["non_finite_motion"] += int((~np.isfinite(values)).sum())
    return np.asarray(values > MOTION_GATE)


def _note_objects(row: MotionRow, frames: int, present: set[int], moving: Gate, notes: Counter[str]) -> None:
    listed = {label for label in row.intervals if label <= LABEL_LIMIT}
    notes["object_ids_above_limit"] += len(row.intervals) - len(listed)
    notes["static_annotation_objects"] += len(present - listed)
    notes["absent_csv_objects"] += len(listed - present)
    notes["objects_without_moving_frame"] += sum(not moving[:, label - 1].any() for label in listed)
    notes["moving_frames_past_end"] += sum(
        row.moving_frames(label) - row.moving_frames(label, frames) for label in listed
    )


def _frame_scores(
    pairs: FramePairs, scores: MosIScores, gated: Overlaps, moving: Gate, cleared: Gate
) -> tuple[FrameScore, ...]:
    def labels(channels: Gate) -> tuple[int, ...]:
        return tuple(int(c) + 1 for c in np.flatnonzero(channels))

    frames = []
    for t, frame in enumerate(pairs.frames):
        false_positives = (gated.predicted[t, scores.matched[t]] > 0) & ~moving[t]
        judged = int(moving[t].sum() + false_positives.sum())
        score = float(scores.ious[t, moving[t]].sum()) / judged if judged else None
        frames.append(FrameScore(*frame, score, labels(moving[t]), labels(cleared[t])))
    return tuple(frames)


def overall_mos_i(sequences: list[SequenceScores], *, frame_level: bool) -> dict[str, float]:
    """The benchmark's numbers: J_mov over all objects, mtIoU and false positives over sequences."""
    overall: dict[str, float] = {}
    for suffix in suffixes(frame_level):
        object_j = [scores.metrics["j_mov" + suffix] for s in sequences for scores in s.objects]
        overall["j_mov" + suffix] = float(np.mean(object_j)) if object_j else float("nan")
        for metric in ("mtiou", "fp_count"):
            overall[metric + suffix] = float(np.mean([s.metrics[metric + suffix] for s in sequences]))
    return overall
