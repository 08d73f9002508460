"""DAVIS J and F: unsupervised multi-object (2017) and foreground (2016) evaluation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from ...errors import GmosError
from .boundary import boundary_f, boundary_tolerance_px, contour, contour_f
from .label_maps import (
    LABEL_LIMIT,
    VOID_LABEL,
    LabelMap,
    Mask,
    foreground,
    joint_histogram,
    read_label_map,
    read_label_pairs,
)
from .results import FrameScore, ObjectScores, SequenceScores
from .sequence_trees import FramePairs

RECALL_THRESHOLD = 0.5
"""A frame is recalled where its score is above this."""

DECAY_PARTS = 4
"""Decay compares the first and the last of this many parts of a sequence."""

FRAME_SCORE = "mean of J and F over the objects of the frame"

Scores = npt.NDArray[np.float64]


def region_j(predicted: Mask, annotated: Mask, void: Mask | None = None) -> float:
    """Intersection over union outside the void pixels; 1 if the union is empty. All bool (H, W)."""
    if void is not None:
        predicted, annotated = predicted & ~void, annotated & ~void
    union = int((predicted | annotated).sum())
    return int((predicted & annotated).sum()) / union if union else 1.0


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
    joint = joint_histogram(annotation.labels, predicted_labels)
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


def evaluate_davis_sequence(name: str, pairs: FramePairs, *, merged: bool) -> SequenceScores:
    """Read one sequence frame by frame and score it.

    Args:
        name: of the sequence.
        pairs: its frames.
        merged: as DAVIS 2016 does: every label is one foreground.

    Raises:
        GmosError: no frame, a size that differs, a label above 20, or a file that is no label map.
    """
    if not pairs.frames:
        raise GmosError(f"{name}: no annotated frame: expected PNGs in its annotation folder")
    return _evaluate_merged(name, pairs) if merged else _evaluate_objects(name, pairs)


def _require_same_size(annotation: LabelMap, prediction: LabelMap) -> None:
    if annotation.hw != prediction.hw:
        raise GmosError(
            f"{prediction.path}: {prediction.hw[1]}x{prediction.hw[0]} pixels, the annotation has"
            f" {annotation.hw[1]}x{annotation.hw[0]}: DAVIS compares at the annotation's size;"
            " write the predictions at the size of the video"
        )


def _evaluate_objects(name: str, pairs: FramePairs) -> SequenceScores:
    notes = Counter(pairs.notes)
    scores: list[tuple[Scores, Scores]] = []
    late: set[int] = set()
    objects = 0
    for t, (annotation, prediction) in enumerate(read_label_pairs(pairs.frames, notes)):
        _require_same_size(annotation, prediction)
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
            scores.append(score_frame(annotation, prediction, objects))
    notes["late_annotation_objects"] += len(late)
    notes["sequences_without_objects"] += not objects
    if not objects:
        return SequenceScores(name=name, metrics={}, notes=notes)
    j, f = (np.stack(frames) for frames in zip(*scores, strict=True))
    proposals, columns = linear_sum_assignment(-(j.mean(axis=0) + f.mean(axis=0)) / 2)
    proposal_of = dict(zip(columns.tolist(), proposals.tolist(), strict=True))
    scored = {c: (j[:, p, c], f[:, p, c]) for c, p in sorted(proposal_of.items())}
    found = tuple(
        ObjectScores(label=c + 1, matched=proposal_of[c] + 1, metrics=_metrics(*of_object))
        for c, of_object in scored.items()
    )
    by_frame = np.mean([(a + b) / 2 for a, b in scored.values()], axis=0)
    return SequenceScores(
        name=name,
        metrics=_mean_metrics([item.metrics for item in found]),
        objects=found,
        frames=_frame_scores(pairs, by_frame, tuple(range(1, objects + 1))),
        notes=notes,
        matching={p + 1: c + 1 for c, p in proposal_of.items()},
    )


def _evaluate_merged(name: str, pairs: FramePairs) -> SequenceScores:
    notes = Counter(pairs.notes)
    scores: list[tuple[float, float]] = []
    # 255 means void beside other labels, and is foreground where it is the only one.
    has_void = any(
        read_label_map(frame.annotation[0]).present.keys() - {0, VOID_LABEL} for frame in pairs.frames
    )
    for frame in pairs.frames:
        annotation, prediction = read_label_map(frame.annotation[0]), read_label_map(frame.prediction)
        _require_same_size(annotation, prediction)
        masks = foreground(prediction), foreground(annotation)
        void = annotation.labels == VOID_LABEL if has_void else None
        scores.append((region_j(*masks, void), boundary_f(*masks, void)))
        notes["void_frames"] += has_void and VOID_LABEL in annotation.present
    j, f = np.array(scores).T
    metrics = _metrics(j, f)
    return SequenceScores(
        name=name,
        metrics=metrics,
        objects=(ObjectScores(label=1, matched=None, metrics=metrics),),
        frames=_frame_scores(pairs, (j + f) / 2, None),
        notes=notes,
    )


def _metrics(j: Scores, f: Scores) -> dict[str, float]:
    names = ("mean", "recall", "decay")
    of_j, of_f = (
        {f"{letter}_{name}": value for name, value in zip(names, score_statistics(scores), strict=True)}
        for letter, scores in (("j", j), ("f", f))
    )
    return {"j_and_f": (of_j["j_mean"] + of_f["f_mean"]) / 2, **of_j, **of_f}


def _mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}


def _frame_scores(
    pairs: FramePairs, scores: Scores, judged: tuple[int, ...] | None
) -> tuple[FrameScore, ...]:
    return tuple(
        FrameScore(*frame, float(score), judged) for frame, score in zip(pairs.frames, scores, strict=True)
    )


def overall_davis(sequences: list[SequenceScores]) -> dict[str, float]:
    """The benchmark's numbers: every statistic averaged over all objects of all sequences."""
    return _mean_metrics([scores.metrics for sequence in sequences for scores in sequence.objects])
