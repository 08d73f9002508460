"""DAVIS J and F: unsupervised multi-object (2017) and foreground (2016) evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from ...errors import GmosError
from .boundary import boundary_tolerance_px, contour, contour_f
from .label_maps import LABEL_LIMIT, VOID_LABEL, LabelMap, Mask, PaletteWatch, read_label_map
from .results import FrameScore, ObjectScores, SequenceScores, merge_notes
from .sequence_trees import FramePairs

RECALL_THRESHOLD = 0.5
"""A frame is recalled where its score is above this."""

DECAY_PARTS = 4
"""Decay compares the first and the last of this many parts of a sequence."""

FRAME_SCORE = "mean of J and F over the objects of the frame"

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DavisSequence:
    """One sequence to evaluate. `merged` asks for DAVIS 2016: every label is one foreground."""

    name: str
    pairs: FramePairs
    merged: bool


def region_j(predicted: Mask, annotated: Mask, void: Mask | None = None) -> float:
    """Intersection over union outside the void pixels; 1 if the union is empty. All bool (H, W)."""
    if void is not None:
        predicted, annotated = predicted & ~void, annotated & ~void
    union = int((predicted | annotated).sum())
    return int((predicted & annotated).sum()) / union if union else 1.0


def boundary_f(predicted: Mask, annotated: Mask, void: Mask | None = None) -> float:
    """The boundary measure of two masks, with void pixels cleared in both. All bool (H, W)."""
    if void is not None:
        predicted, annotated = predicted & ~void, annotated & ~void
    tolerance = boundary_tolerance_px((annotated.shape[0], annotated.shape[1]))
    return contour_f(contour(predicted, tolerance), contour(annotated, tolerance))


def score_statistics(scores: Scores) -> tuple[float, float, float]:
    """Mean, recall and decay of one object's scores over its frames, float64 (T,)."""
    edges = (np.round(np.linspace(1, len(scores), DECAY_PARTS + 1) + 1e-10) - 1).astype(int)
    first, last = scores[edges[0] : edges[1] + 1], scores[edges[-2] : edges[-1] + 1]
    return (
        float(scores.mean()),
        float((scores > RECALL_THRESHOLD).mean()),
        float(first.mean() - last.mean()),
    )


def score_frame(annotation: LabelMap, prediction: LabelMap, objects: int) -> tuple[Scores, Scores]:
    """J and F of each proposal with each annotated object in one frame.

    Args:
        annotation: labels 1 to `objects` are judged, void is left out, others are background.
        prediction: labels 1 to 20 are proposals.
        objects: the number of annotated objects.

    Returns:
        Two float64 arrays (20, objects).
    """
    j, f = np.empty((2, LABEL_LIMIT, objects))
    void = annotation.labels == VOID_LABEL
    predicted_labels = np.where(void, np.uint8(0), prediction.labels) if void.any() else prediction.labels
    side = 256
    joint = np.bincount(
        (annotation.labels.astype(np.uint16) * side + predicted_labels).ravel(), minlength=side * side
    ).reshape(side, side)
    joint[VOID_LABEL] = 0
    tolerance = boundary_tolerance_px(annotation.hw)
    annotated = [contour(annotation.labels == label, tolerance) for label in range(1, objects + 1)]
    areas = joint.sum(axis=1)[1 : objects + 1]
    empty = contour(np.zeros((1, 1), dtype=bool), tolerance)
    for proposal in range(1, LABEL_LIMIT + 1):
        present = proposal in prediction.present
        intersections = joint[1 : objects + 1, proposal]
        unions = areas + joint[:, proposal].sum() - intersections
        j[proposal - 1] = np.where(unions > 0, intersections / np.maximum(unions, 1), 1.0)
        outline = contour(predicted_labels == proposal, tolerance) if present else empty
        f[proposal - 1] = [contour_f(outline, other) for other in annotated]
    return j, f


def evaluate_davis_sequence(sequence: DavisSequence) -> SequenceScores:
    """Read one sequence frame by frame and score it.

    Raises:
        GmosError: no frame, a size that differs, a label above 20, or a file that is no label map.
    """
    if not sequence.pairs.names:
        raise GmosError(f"{sequence.name}: no annotated frame: expected PNGs in its annotation folder")
    return _evaluate_merged(sequence) if sequence.merged else _evaluate_objects(sequence)


def _read_pairs(
    sequence: DavisSequence, notes: Counter[str], judge: Callable[[int, LabelMap, LabelMap], None]
) -> None:
    """Hand every checked pair to `judge` with its index; one pair is in memory at a time."""
    watch, annotation_watch, mixed = PaletteWatch(), PaletteWatch(), False
    for t, ((annotation_path,), prediction_path) in enumerate(
        zip(sequence.pairs.annotations, sequence.pairs.predictions, strict=True)
    ):
        annotation, prediction = read_label_map(annotation_path), read_label_map(prediction_path)
        if annotation.hw != prediction.hw:
            raise GmosError(
                f"{prediction_path}: {prediction.hw[1]}x{prediction.hw[0]} pixels, the annotation has"
                f" {annotation.hw[1]}x{annotation.hw[0]}: DAVIS compares at the annotation's size;"
                " write the predictions at the size of the video"
            )
        if not sequence.merged:
            watch.check(prediction)
            mixed = mixed or not annotation_watch.agrees(annotation)
        judge(t, annotation, prediction)
    notes["mixed_palettes"] += mixed


def _evaluate_objects(sequence: DavisSequence) -> SequenceScores:
    notes: Counter[str] = Counter(sequence.pairs.notes)
    j_frames: list[Scores] = []
    f_frames: list[Scores] = []
    objects = 0
    late: set[int] = set()

    def judge(t: int, annotation: LabelMap, prediction: LabelMap) -> None:
        nonlocal objects
        labels = [label for label in annotation.present if label not in (0, VOID_LABEL)]
        if t == 0:
            objects = max(labels, default=0)
        late.update(label for label in labels if label > objects)
        if prediction.above_limit:
            raise GmosError(
                f"{prediction.path}: label {prediction.above_limit[-1]}: DAVIS accepts at most"
                f" {LABEL_LIMIT} proposals; number the objects 1 to {LABEL_LIMIT}"
            )
        if objects:
            j, f = score_frame(annotation, prediction, objects)
            j_frames.append(j)
            f_frames.append(f)

    _read_pairs(sequence, notes, judge)
    notes["late_annotation_objects"] += len(late)
    notes["sequences_without_objects"] += not objects
    if not objects:
        return SequenceScores(name=sequence.name, metrics={}, notes=merge_notes([notes]))
    j, f = np.stack(j_frames), np.stack(f_frames)
    proposals, columns = linear_sum_assignment(-(j.mean(axis=0) + f.mean(axis=0)) / 2)
    proposal_of = dict(zip(columns.tolist(), proposals.tolist(), strict=True))
    scored = {c: (j[:, p, c], f[:, p, c]) for c, p in sorted(proposal_of.items())}
    return SequenceScores(
        name=sequence.name,
        metrics=_mean_metrics([_metrics(*scores) for scores in scored.values()]),
        objects=tuple(
            ObjectScores(label=c + 1, matched=proposal_of[c] + 1, metrics=_metrics(*scores))
            for c, scores in scored.items()
        ),
        frames=_frame_scores(sequence, np.mean([(a + b) / 2 for a, b in scored.values()], axis=0), objects),
        notes=merge_notes([notes]),
        matching={p + 1: c + 1 for c, p in proposal_of.items()},
    )


def _evaluate_merged(sequence: DavisSequence) -> SequenceScores:
    notes: Counter[str] = Counter(sequence.pairs.notes)
    scores: list[tuple[float, float]] = []
    has_void = _has_void(sequence)

    def judge(_t: int, annotation: LabelMap, prediction: LabelMap) -> None:
        predicted, annotated = prediction.labels > 0, annotation.labels > 0
        void = annotation.labels == VOID_LABEL if has_void else None
        scores.append((region_j(predicted, annotated, void), boundary_f(predicted, annotated, void)))
        notes["void_frames"] += has_void and VOID_LABEL in annotation.present

    _read_pairs(sequence, notes, judge)
    j, f = np.array(scores).T
    return SequenceScores(
        name=sequence.name,
        metrics=_metrics(j, f),
        objects=(ObjectScores(label=1, matched=None, metrics=_metrics(j, f)),),
        frames=_frame_scores(sequence, (j + f) / 2, None),
        notes=merge_notes([notes]),
    )


def _has_void(sequence: DavisSequence) -> bool:
    """Whether 255 means void: it does beside other labels, and is foreground where it is the only one."""
    for files in sequence.pairs.annotations:
        if any(label not in (0, VOID_LABEL) for label in read_label_map(files[0]).present):
            return True
    return False


def _metrics(j: Scores, f: Scores) -> dict[str, float]:
    j_mean, j_recall, j_decay = score_statistics(j)
    f_mean, f_recall, f_decay = score_statistics(f)
    return {
        "j_and_f": (j_mean + f_mean) / 2,
        "j_mean": j_mean,
        "j_recall": j_recall,
        "j_decay": j_decay,
        "f_mean": f_mean,
        "f_recall": f_recall,
        "f_decay": f_decay,
    }


def _mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}


def _frame_scores(sequence: DavisSequence, scores: Scores, objects: int | None) -> tuple[FrameScore, ...]:
    judged = None if objects is None else tuple(range(1, objects + 1))
    pairs = sequence.pairs
    return tuple(
        FrameScore(name=name, score=float(score), annotation=files, prediction=prediction, judged=judged)
        for name, score, files, prediction in zip(
            pairs.names, scores, pairs.annotations, pairs.predictions, strict=True
        )
    )


def overall_davis(sequences: list[SequenceScores]) -> dict[str, float]:
    """The benchmark's numbers: every statistic averaged over all objects of all sequences."""
    return _mean_metrics([scores.metrics for sequence in sequences for scores in sequence.objects])
