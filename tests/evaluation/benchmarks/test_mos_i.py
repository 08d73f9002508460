"""MOS-I on small cases, against a dense reference that builds every mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.benchmarks.label_maps import LABEL_LIMIT, LabelMap, joint_histogram
from gmos_deploy.evaluation.benchmarks.mos_i import (
    MosIScores,
    Overlaps,
    count_overlaps,
    evaluate_mos_i_sequence,
    gate_overlaps,
    score_overlaps,
)
from gmos_deploy.evaluation.benchmarks.results import SequenceScores
from gmos_deploy.evaluation.benchmarks.sequence_trees import list_frames, pair_by_position
from gmos_deploy.evaluation.benchmarks.time_annotation import MotionRow

MEAN_ROUNDING = 1e-6
"""Means of float32 values in another order, and the epsilon of the published IoU."""

IOU_EPSILON = 1e-6
"""What the published IoU adds to the union, relative to one pixel."""

LABELS = st.sampled_from([0, 0, 0, 1, 2, 3, 20])
CLIP = (3, 4, 5)


def as_map(labels: NDArray[np.uint8]) -> LabelMap:
    """A label map that was never a file."""
    values, counts = np.unique(labels, return_counts=True)
    present = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return LabelMap(path=Path("frame.png"), labels=labels, present=present, colours={})


def score(
    annotated: NDArray[np.uint8], predicted: NDArray[np.uint8], moving: NDArray[np.bool_], frame_level: bool
) -> MosIScores:
    """The evaluator on two clips, uint8 (T, H, W)."""
    counts = [count_overlaps(as_map(a), as_map(p)) for a, p in zip(annotated, predicted, strict=True)]
    overlaps = Overlaps(
        intersections=np.stack([count[0] for count in counts]),
        predicted=np.stack([count[1] for count in counts]),
        annotated=np.stack([count[2] for count in counts]),
    )
    return score_overlaps(gate_overlaps(overlaps, moving, None), moving, frame_level=frame_level)


def dense_score(
    annotated: NDArray[np.uint8], predicted: NDArray[np.uint8], moving: NDArray[np.bool_], frame_level: bool
) -> tuple[dict[int, float], float, float]:
    """J per object, mtIoU and FP count with whole masks, by the definitions."""
    channels = np.arange(1, LABEL_LIMIT + 1)[None, :, None, None]
    truth = (annotated[:, None] == channels) & moving[:, :, None, None]
    proposals = predicted[:, None] == channels
    intersection = (proposals[:, :, None] & truth[:, None]).sum((-1, -2))
    union = (proposals[:, :, None] | truth[:, None]).sum((-1, -2))
    iou = intersection.astype(np.float32) / (union.astype(np.float32) + np.float32(1e-6))
    iou[union == 0] = 1
    matched = np.empty_like(proposals)
    for t in range(len(moving)):
        cost = np.float32(1) - (iou[t] if frame_level else iou.mean(0, dtype=np.float32))
        rows, columns = linear_sum_assignment(cost)
        matched[t, columns] = proposals[t, rows]
    both, either = (matched & truth).sum((-1, -2)), (matched | truth).sum((-1, -2))
    exact = np.where(either == 0, 1.0, both / np.maximum(either, 1))
    objects = {c + 1: exact[moving[:, c], c].mean() for c in range(LABEL_LIMIT) if moving[:, c].any()}
    predictions = matched.any((-1, -2))
    mtiou = []
    for k in range(10):
        hits = int(
            sum(
                either[t, c] == 0 or 20 * both[t, c] > (10 + k) * either[t, c] for t, c in np.argwhere(moving)
            )
        )
        mtiou.append(hits / (int(predictions.sum()) + int(moving.sum()) - hits + 1e-8))
    return objects, float(np.mean(mtiou)), float((predictions & ~moving).sum(1).mean())


@given(
    annotated=arrays(np.uint8, CLIP, elements=LABELS),
    predicted=arrays(np.uint8, CLIP, elements=LABELS),
    moving=arrays(np.bool_, (CLIP[0], LABEL_LIMIT)),
    frame_level=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_dense_reference(
    annotated: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    moving: NDArray[np.bool_],
    frame_level: bool,
) -> None:
    """Counting labels gives what whole masks give."""
    moving[:, 3:19] = False
    scores = score(annotated, predicted, moving, frame_level)
    objects, mtiou, fp_count = dense_score(annotated, predicted, moving, frame_level)
    assert scores.object_j == pytest.approx(objects, abs=MEAN_ROUNDING)
    assert scores.mtiou == pytest.approx(mtiou, abs=MEAN_ROUNDING)
    assert scores.fp_count == pytest.approx(fp_count, abs=MEAN_ROUNDING)


@given(
    labels=arrays(np.uint8, CLIP, elements=st.sampled_from([0, 1, 2, 3])),
    order=st.permutations(range(1, 21)),
    frame_level=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_prediction_labels_may_be_permuted(
    labels: NDArray[np.uint8], order: list[int], frame_level: bool
) -> None:
    """The annotation itself under other labels is perfect."""
    moving = np.zeros((CLIP[0], LABEL_LIMIT), bool)
    moving[:, :3] = True
    scores = score(labels, np.array([0, *order], np.uint8)[labels], moving, frame_level)
    assert all(value == pytest.approx(1, abs=1e-6) for value in scores.object_j.values())
    assert scores.fp_count == 0


def test_identity_is_perfect(square: Callable[..., NDArray[np.uint8]]) -> None:
    """A prediction equal to the annotation scores 1, 1 and 0."""
    clip = np.stack([square((1, 1, 1, 4), (2, 6, 8, 5))] * 3)
    moving = np.zeros((3, LABEL_LIMIT), bool)
    moving[:, :2] = True
    scores = score(clip, clip, moving, frame_level=False)
    assert scores.object_j == pytest.approx({1: 1.0, 2: 1.0}, abs=IOU_EPSILON)
    assert scores.mtiou == pytest.approx(1)
    assert scores.fp_count == 0


def test_empty_prediction_scores_zero(square: Callable[..., NDArray[np.uint8]]) -> None:
    """Nothing predicted: no overlap, no false positive."""
    clip = np.stack([square((1, 1, 1, 4))] * 2)
    moving = np.zeros((2, LABEL_LIMIT), bool)
    moving[:, 0] = True
    scores = score(clip, np.zeros_like(clip), moving, frame_level=False)
    assert (scores.object_j, scores.mtiou, scores.fp_count) == ({1: 0.0}, 0.0, 0.0)


def test_one_pixel_matches_exactly(square: Callable[..., NDArray[np.uint8]]) -> None:
    """A single pixel is an object like any other."""
    clip = np.stack([square((1, 5, 5, 1))])
    moving = np.zeros((1, LABEL_LIMIT), bool)
    moving[0, 0] = True
    scores = score(clip, clip * 7, moving, frame_level=True)
    assert scores.object_j == pytest.approx({1: 1.0}, abs=IOU_EPSILON)


def test_iou_on_a_threshold_is_no_hit(square: Callable[..., NDArray[np.uint8]]) -> None:
    """An IoU of exactly 3/4 counts for the thresholds below .75 only."""
    annotated, predicted = square((1, 0, 0, 2)), square((1, 0, 0, 2))
    predicted[1, 1] = 0
    moving = np.zeros((1, LABEL_LIMIT), bool)
    moving[0, 0] = True
    scores = score(annotated[None], predicted[None], moving, frame_level=False)
    assert [value > 0 for value in scores.mtiou_per_threshold] == [True] * 5 + [False] * 5


@given(
    rows=arrays(np.uint8, (4, 5), elements=st.integers(0, 20)),
    columns=arrays(np.uint8, (4, 5), elements=st.integers(0, 20)),
)
@settings(max_examples=60, deadline=None)
def test_joint_histogram_counts_pairs(rows: NDArray[np.uint8], columns: NDArray[np.uint8]) -> None:
    """Both ways of counting, by bytes and by 16-bit codes, give every pair's count."""
    expected = np.zeros((21, 21), np.int64)
    np.add.at(expected, (rows, columns), 1)
    assert np.array_equal(joint_histogram(rows, columns, 21), expected)


@pytest.fixture
def run(tmp_path: Path, write_tree: Callable[..., list[Path]]) -> Callable[..., SequenceScores]:
    """Evaluates one sequence from disk."""

    def evaluate(
        annotated: list[NDArray[np.uint8]],
        predicted: list[NDArray[np.uint8]],
        intervals: dict[int, tuple[tuple[int, int], ...]],
        motion: object = None,
    ) -> SequenceScores:
        write_tree(tmp_path / "anno" / "seq", annotated)
        write_tree(tmp_path / "pred" / "seq", predicted)
        motion_file = None
        if motion is not None:
            motion_file = tmp_path / "pred" / "seq___motion.npy"
            if isinstance(motion, bytes):
                motion_file.write_bytes(motion)
            else:
                np.save(motion_file, motion)
        row = MotionRow(
            line=2,
            name="seq",
            intervals=intervals,
            annotated_frames=None,
            video_frames=None,
            dataset=None,
            split=None,
            unsorted_ids=False,
        )
        pairs = pair_by_position(
            list_frames(tmp_path / "anno" / "seq"), list_frames(tmp_path / "pred" / "seq")
        )
        return evaluate_mos_i_sequence(row, pairs, motion_file, frame_level=False)

    return evaluate


def test_silent_steps_are_counted(
    run: Callable[..., SequenceScores], square: Callable[..., NDArray[np.uint8]]
) -> None:
    """Tail frames, sizes, large labels, static and absent objects: each has its count."""
    annotated = [square((1, 1, 1, 4), (3, 8, 8, 2), (255, 0, 14, 2))] * 3
    predicted = [np.kron(square((1, 1, 1, 4), (21, 8, 8, 2)), np.ones((2, 2), np.uint8))] * 5
    scores = run(annotated, predicted, {1: ((0, 4),), 2: ((1, 1),), 4: ((3, 4),), 21: ((0, 0),)})
    assert scores.notes == Counter(
        {
            "unpaired_prediction_frames": 2,
            "resized_predictions": 3,
            "ignored_prediction_labels": 3,
            "ignored_annotation_labels": 3,
            "static_annotation_objects": 1,
            "absent_csv_objects": 2,
            "object_ids_above_limit": 1,
            "moving_frames_past_end": 4,
            "objects_without_moving_frame": 1,
            "occluded_true_positives": 1,
            "mtiou_above_one": 1,
        }
    )
    assert scores.metrics["j_mov"] == pytest.approx(1)
    assert [frame.judged for frame in scores.frames] == [(1,), (1, 2), (1,)]


def test_mtiou_above_one_is_kept_and_said(
    run: Callable[..., SequenceScores], square: Callable[..., NDArray[np.uint8]]
) -> None:
    """A moving object that is hidden and not predicted is a true positive without a prediction."""
    scores = run([square((1, 1, 1, 4)), square()], [square((1, 1, 1, 4)), square()], {1: ((0, 1),)})
    assert scores.metrics["mtiou"] == pytest.approx(2 / (1 + 2 - 2))
    assert scores.notes == Counter({"occluded_true_positives": 1, "mtiou_above_one": 1})


def test_motion_file_clears_masks(
    run: Callable[..., SequenceScores], square: Callable[..., NDArray[np.uint8]]
) -> None:
    """A value of one half or NaN clears the mask; longer files and more columns are accepted."""
    motion = np.ones((5, LABEL_LIMIT, 2), np.float32)
    motion[0, 0, 0], motion[1, 0, 0], motion[2, 0, 0] = 0.5, np.nan, 0.51
    frames = [square((1, 1, 1, 4))] * 3
    scores = run(frames, frames, {1: ((0, 2),)}, motion)
    assert [frame.score for frame in scores.frames] == pytest.approx([0, 0, 1])
    assert scores.notes == Counter({"motion_gated_masks": 2, "non_finite_motion": 1})
    assert [frame.cleared for frame in scores.frames] == [(1,), (1,), ()]


@pytest.mark.parametrize(
    ("motion", "message"),
    [
        (np.ones((2, LABEL_LIMIT, 1)), r"shape \(2, 20, 1\): expected \(3 or more frames, 20, 1 or more\)"),
        (np.ones((3, 10, 1)), r"shape \(3, 10, 1\)"),
        (np.ones((3, LABEL_LIMIT)), r"shape \(3, 20\)"),
        (np.full((3, LABEL_LIMIT, 1), "x"), "not an array of numbers"),
        (b"nonsense", "unreadable motion file"),
    ],
)
def test_bad_motion_files_are_refused(
    run: Callable[..., SequenceScores],
    square: Callable[..., NDArray[np.uint8]],
    motion: object,
    message: str,
) -> None:
    """The message says the shape that was found and the one expected."""
    frames = [square((1, 1, 1, 4))] * 3
    with pytest.raises(GmosError, match=message):
        run(frames, frames, {1: ((0, 2),)}, motion)


def test_frames_without_anything_to_judge_have_no_score(
    run: Callable[..., SequenceScores], square: Callable[..., NDArray[np.uint8]]
) -> None:
    """Static, unpredicted frames are no worst frames; a false positive makes one."""
    frames = [square((1, 1, 1, 4))] * 3
    scores = run(frames, [frames[0], square(), frames[0]], {1: ((0, 0),)})
    assert [frame.score for frame in scores.frames] == [pytest.approx(1), None, 0.0]
