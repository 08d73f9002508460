"""DAVIS J and F on small masks, against a naive reference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.benchmarks.boundary import boundary_f, boundary_tolerance_px
from gmos_deploy.evaluation.benchmarks.davis import (
    evaluate_davis_sequence,
    overall_davis,
    region_j,
    score_statistics,
)
from gmos_deploy.evaluation.benchmarks.results import SequenceScores
from gmos_deploy.evaluation.benchmarks.sequence_trees import list_frames, pair_by_name

Mask = NDArray[np.bool_]


def naive_boundary(mask: Mask) -> list[tuple[int, int]]:
    """Pixels that differ from the right, lower or lower-right neighbour, one by one."""
    height, width = mask.shape
    found = []
    for y in range(height):
        for x in range(width):
            neighbours = [
                (y + down, x + right)
                for down, right in ((0, 1), (1, 0), (1, 1))
                if y + down < height and x + right < width
            ]
            if any(mask[neighbour] != mask[y, x] for neighbour in neighbours):
                found.append((y, x))
    return found


def naive_f(predicted: Mask, annotated: Mask) -> float:
    """F by the distance of every boundary pixel to every other."""
    radius = math.ceil(0.008 * math.sqrt(mask_area_of_diagonal(predicted)))
    first, second = naive_boundary(predicted), naive_boundary(annotated)
    if not first or not second:
        return float(first == second)

    def share(pixels: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
        near = [min((y - v) ** 2 + (x - u) ** 2 for v, u in others) <= radius**2 for y, x in pixels]
        return sum(near) / len(near)

    precision, recall = share(first, second), share(second, first)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mask_area_of_diagonal(mask: Mask) -> int:
    """The squared diagonal of the frame, in pixels."""
    return mask.shape[0] ** 2 + mask.shape[1] ** 2


@given(
    predicted=arrays(np.bool_, (9, 11), elements=st.booleans()),
    annotated=arrays(np.bool_, (9, 11), elements=st.booleans()),
)
@settings(max_examples=80, deadline=None)
def test_boundary_f_equals_the_naive_one(predicted: Mask, annotated: Mask) -> None:
    """Working in windows changes nothing, at the image's edges neither."""
    assert boundary_f(predicted, annotated) == pytest.approx(naive_f(predicted, annotated))


@pytest.mark.parametrize("seed", range(4))
def test_boundary_f_equals_the_naive_one_with_a_wide_tolerance(seed: int) -> None:
    """Small blobs in a frame with a tolerance of two pixels, at and away from the edges."""
    rng = np.random.default_rng(seed)
    predicted, annotated = np.zeros((2, 90, 160), bool)
    for mask in (predicted, annotated):
        for _ in range(3):
            y, x = rng.integers(-4, 90), rng.integers(-4, 160)
            mask[max(0, y) : y + 8, max(0, x) : x + 8] = True
    assert boundary_tolerance_px((90, 160)) == 2
    assert boundary_f(predicted, annotated) == pytest.approx(naive_f(predicted, annotated))


def test_boundary_f_of_empty_and_full_masks() -> None:
    """Two masks without a boundary agree; one without is a miss, even if it is full."""
    empty, full, some = np.zeros((6, 6), bool), np.ones((6, 6), bool), np.eye(6, dtype=bool)
    assert boundary_f(empty, empty) == boundary_f(full, empty) == 1.0
    assert boundary_f(some, empty) == boundary_f(empty, some) == boundary_f(full, some) == 0.0


def test_one_pixel_has_a_boundary() -> None:
    """A single pixel in a corner is found on both sides."""
    corner = np.zeros((6, 6), bool)
    corner[5, 5] = True
    assert boundary_f(corner, corner) == 1.0
    assert region_j(corner, corner) == 1.0


def test_region_j_leaves_void_out() -> None:
    """Void pixels are neither right nor wrong; without others the union is empty and J is 1."""
    predicted, annotated = np.array([[1, 1, 0]], bool), np.array([[1, 0, 0]], bool)
    assert region_j(predicted, annotated) == 0.5
    assert region_j(predicted, annotated, np.array([[0, 1, 0]], bool)) == 1.0
    assert region_j(predicted, annotated, np.ones((1, 3), bool)) == 1.0


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_statistics_of_short_sequences(frames: int) -> None:
    """Quarters of a few frames overlap, and are never empty."""
    mean, recall, decay = score_statistics(np.linspace(1, 0.5, frames) if frames > 1 else np.ones(1))
    assert math.isfinite(mean + decay)
    assert recall == pytest.approx(1 if frames == 1 else (frames - 1) / frames)


@pytest.fixture
def run(tmp_path: Path, write_tree: Callable[..., list[Path]]) -> Callable[..., SequenceScores]:
    """Evaluates one sequence from disk."""

    def evaluate(
        annotated: list[NDArray[np.uint8]], predicted: list[NDArray[np.uint8]], merged: bool = False
    ) -> SequenceScores:
        write_tree(tmp_path / "anno", annotated)
        write_tree(tmp_path / "pred", predicted)
        files = [(path.stem, (path,)) for path in list_frames(tmp_path / "anno")]
        pairs, _ = pair_by_name(files, list_frames(tmp_path / "pred"))
        return evaluate_davis_sequence("seq", pairs, merged=merged)

    return evaluate


def test_permuted_proposals_are_perfect(
    run: Callable[..., SequenceScores], square: Callable[..., NDArray[np.uint8]]
) -> None:
    """Proposal numbers are free, and extra proposals cost nothing."""
    annotated = [square((1, 1, 1, 4), (2, 6, 8, 5))] * 2
    scores = run(annotated, [square((17, 1, 1, 4), (4, 6, 8, 5), (2, 0, 12, 2))] * 2)
    assert scores.metrics["j_and_f"] == 1.0
    assert scores.matching == {17: 1, 4: 2}
    assert [item.matched for item in scores.objects] == [17, 4]


def test_objects_after_the_first_frame_are_counted_only(
    run: Callable[..., SequenceScores], square: Callable[..., NDArray[np.uint8]]
) -> None:
    """The first frame says which objects there are."""
    annotated = [square((1, 1, 1, 4)), square((1, 1, 1, 4), (3, 8, 8, 3))]
    scores = run(annotated, [square((1, 1, 1, 4))] * 2)
    assert (scores.metrics["j_mean"], scores.notes) == (1.0, Counter(late_annotation_objects=1))


def test_sequence_without_objects_has_no_metrics(
    run: Callable[..., SequenceScores], square: Callable[..., NDArray[np.uint8]]
) -> None:
    """An empty first frame leaves the sequence out, and says so."""
    scores = run([square(), square((1, 1, 1, 4))], [square()] * 2)
    assert scores.metrics == {}
    assert scores.notes == Counter(late_annotation_objects=1, sequences_without_objects=1)


def test_merged_objects_are_one_foreground(
    run: Callable[..., SequenceScores], square: Callable[..., NDArray[np.uint8]]
) -> None:
    """DAVIS 2016: labels do not matter, and 255 is foreground where it is the only label."""
    annotated = [square((255, 1, 1, 4)), square((255, 6, 8, 5))]
    scores = run(annotated, [square((3, 1, 1, 4)), square((9, 6, 8, 5))], merged=True)
    assert (scores.metrics["j_mean"], scores.metrics["f_mean"], scores.notes) == (1.0, 1.0, Counter())


def test_other_sizes_are_refused(
    run: Callable[..., SequenceScores], square: Callable[..., NDArray[np.uint8]]
) -> None:
    """DAVIS does not resize."""
    with pytest.raises(GmosError, match=r"00000\.png: 8x6 pixels, the annotation has 16x12"):
        run([square((1, 1, 1, 4))], [square((1, 1, 1, 4), hw=(6, 8))])


def test_more_than_twenty_proposals_are_refused(
    run: Callable[..., SequenceScores], square: Callable[..., NDArray[np.uint8]]
) -> None:
    """The published evaluator stops there too."""
    with pytest.raises(GmosError, match=r"label 21: DAVIS accepts at most 20 proposals"):
        run([square((1, 1, 1, 4))], [square((21, 1, 1, 4))])


def test_overall_averages_objects_not_sequences() -> None:
    """A sequence of two objects counts twice."""
    metrics = ("j_and_f", "j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay")

    def sequence(*values: float) -> SequenceScores:
        from gmos_deploy.evaluation.benchmarks.results import ObjectScores

        objects = [
            ObjectScores(label=i + 1, matched=None, metrics=dict.fromkeys(metrics, value))
            for i, value in enumerate(values)
        ]
        return SequenceScores(name="s", metrics={}, objects=tuple(objects))

    assert overall_davis([sequence(0.0, 0.3), sequence(0.9)])["j_mean"] == pytest.approx(0.4)
