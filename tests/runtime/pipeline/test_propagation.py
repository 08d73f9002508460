"""The two propagation stages against the published implementation, on the scripted tracker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.pipeline.label_store import LabelStore
from gmos_deploy.runtime.pipeline.mask_overlap import (
    iou_matrix,
    match_rows_to_columns,
    overlap_counts,
    pad_square,
    precision,
)
from gmos_deploy.runtime.pipeline.proposals import Proposals
from gmos_deploy.runtime.pipeline.stage_off import StageOff, resolve_overlaps, stage2_prompts
from gmos_deploy.runtime.pipeline.stage_on import StageOn, TrackedVideo, start_frame
from gmos_deploy.runtime.pipeline.thresholds import PUBLISHED, Thresholds
from gmos_deploy.runtime.tracker import step_from_logits

from ..scripted_tracker import ScriptedTracker

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = (1, 2, 5, 7, 9, 15)


def make_proposals(
    maps: NDArray[np.uint8], motions: NDArray[np.float32], ious: NDArray[np.float32]
) -> Proposals:
    store = LabelStore(0, maps.shape[1:])
    for labels in maps:
        store.append(labels)
    return Proposals(maps=store, motions=motions, ious=ious)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> dict[str, NDArray[np.generic]]:
    with np.load(GOLDEN / f"propagation_{request.param}.npz") as file:
        return dict(file)


def test_both_stages_equal_the_published_result(case: dict[str, NDArray]) -> None:
    """Label maps, prompts and propagations of both stages are those of the published code."""
    proposals = make_proposals(case["proposals"], case["motions"], case["ious"])
    tracker = ScriptedTracker(len(proposals), proposals.maps.video_hw, case["velocities"])
    seen: list[int] = []
    stage1 = StageOn(proposals, tracker, PUBLISHED, lambda frame, _: seen.append(frame)).run()
    assert seen == list(range(len(proposals)))
    assert np.array_equal(np.array(tracker.prompted), case["stage1_prompts"])
    assert list(stage1.prompts) == tracker.prompted
    mos_i = np.stack([stage1.mos_i(t).unpack() for t in range(len(proposals))])
    assert np.array_equal(mos_i, case["mos_i"])

    tracker.prompted.clear()
    stage2 = StageOff(proposals, stage1, tracker, PUBLISHED, lambda *_: None).run()
    expected = {o: sorted(t for t, p in case["stage2_prompts"] if p == o) for _, o in case["stage2_prompts"]}
    found = {o: sorted(t for t, p in tracker.prompted if p == o) for _, o in tracker.prompted}
    assert found == expected
    assert np.array_equal(np.array(tracker.propagations), case["propagations"])
    assert np.array_equal(np.stack(list(stage2.labels)), case["mos"])


def test_the_golden_cases_reach_the_limits() -> None:
    """The golden set holds the cases that matter: ten objects, an object dropped, backward passes."""
    most = late = backward = False
    for number in CASES:
        with np.load(GOLDEN / f"propagation_{number}.npz") as file:
            most |= len({o for _, o in file["stage1_prompts"]}) == PUBLISHED.max_objects
            late |= any(t > 2 for t, _ in file["stage1_prompts"])
            backward |= bool(file["propagations"][:, 1].any())
    assert most
    assert late
    assert backward


def test_overlaps_equal_the_published_result() -> None:
    """Stage 1 takes the arg-max above -1; stage 2 the object with more prompts."""
    with np.load(GOLDEN / "overlap.npz") as file:
        logits, priority = file["logits"][0], file["priority"]
        stage1, stage2 = file["stage1"][0], file["stage2"][0]
    ids = range(len(logits))
    step = step_from_logits(0, ids, logits, np.zeros(len(logits), np.float32))
    assert np.array_equal(step.labels[None] == np.arange(1, len(logits) + 1)[:, None, None], stage1 > 0)
    labels = resolve_overlaps(step.masks, np.arange(1, len(logits) + 1, dtype=np.uint8), priority)
    assert np.array_equal(labels[None] == np.arange(1, len(logits) + 1)[:, None, None], stage2 > 0)


def test_a_contested_pixel_goes_to_the_smaller_object_among_equals() -> None:
    """Equal prompt counts: the first object keeps the pixel."""
    masks = np.ones((3, 1, 1), np.bool_)
    labels = np.array([1, 2, 3], np.uint8)
    assert resolve_overlaps(masks, labels, np.array([2, 2, 2]))[0, 0] == 1
    assert resolve_overlaps(masks, labels, np.array([1, 2, 2]))[0, 0] == 2


def test_a_video_without_motion_is_all_empty() -> None:
    """No proposal moves: no prompt is made and both results are empty."""
    maps = np.ones((4, 6, 8), np.uint8)
    proposals = make_proposals(maps, np.zeros((4, 20), np.float32), np.ones((4, 20), np.float32))
    tracker = ScriptedTracker(4, (6, 8), np.zeros((1, 2), np.int64))
    stage1 = StageOn(proposals, tracker, PUBLISHED, lambda *_: None).run()
    stage2 = StageOff(proposals, stage1, tracker, PUBLISHED, lambda *_: None).run()
    assert tracker.prompted == []
    assert not any(labels.any() for labels in stage1.labels)
    assert not any(labels.any() for labels in stage2.labels)


def test_an_object_that_hardly_moves_leaves_mos_but_not_mos_i() -> None:
    """One moving frame in forty is under 3%: MOS drops the object, MOS-I shows that frame."""
    maps = np.zeros((40, 20, 24), np.uint8)
    maps[:, 4:16, 4:16] = 1
    motions, ious = np.zeros((40, 20), np.float32), np.ones((40, 20), np.float32)
    motions[0, 0] = 1
    proposals = make_proposals(maps, motions, ious)
    tracker = ScriptedTracker(40, (20, 24), np.zeros((1, 2), np.int64))
    stage1 = StageOn(proposals, tracker, PUBLISHED, lambda *_: None).run()
    assert stage1.mos_i(0).unpack().any()
    assert not stage1.mos_i(1).unpack().any()
    stage2 = StageOff(proposals, stage1, tracker, PUBLISHED, lambda *_: None).run()
    assert stage2.prompts
    assert stage2.objects == 0
    assert not any(labels.any() for labels in stage2.labels)


def test_the_first_trusted_frame_starts_when_the_first_three_have_none() -> None:
    """Ties among the first three go to the earliest; later frames count only without those."""
    motions, ious = np.zeros((6, 20), np.float32), np.full((6, 20), 0.8, np.float32)
    maps = np.ones((6, 2, 2), np.uint8)
    assert start_frame(make_proposals(maps, motions, ious), PUBLISHED) is None
    motions[4:, 0] = 0.9
    assert start_frame(make_proposals(maps, motions, ious), PUBLISHED) == 4
    motions[1:3, 0] = 0.9
    assert start_frame(make_proposals(maps, motions, ious), PUBLISHED) == 1
    ious[2, 0] = 0.9
    assert start_frame(make_proposals(maps, motions, ious), PUBLISHED) == 2


def test_stage2_prompts_take_the_best_tenth_and_earlier_frames_on_ties() -> None:
    """Eleven frames with an IoU give two prompts; the third best is not asked."""
    stage1 = TrackedVideo.empty(30, (2, 2), PUBLISHED)
    stage1.ious[:11, 0] = 0.96
    stage1.ious[7, 0] = 0.99
    tracked = TrackedVideo(
        labels=stage1.labels, moving=stage1.moving, ious=stage1.ious, objects=1, prompts=()
    )
    assert stage2_prompts(tracked, PUBLISHED) == [(0, 0), (7, 0)]
    stage1.ious[:11, 0] = 0.94
    assert stage2_prompts(tracked, PUBLISHED) == []


def test_precision_is_compared_in_float32() -> None:
    """12 of 40 pixels is not below 0.3 in float32, though it is in float64."""
    value = precision(np.array([12]), np.array([40]))[0]
    assert not value < np.float32(0.3)
    assert 12 / (40 + 1e-6) < 0.3


def test_iou_matrix_equals_the_naive_form() -> None:
    """Counting over a label map gives the IoU of every pair of masks, 1 for two empty ones."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, (17, 23), dtype=np.uint8)
    labels[labels == 3] = 0
    masks = rng.random((3, 17, 23)) > 0.6
    masks[1] = False
    iou = iou_matrix(*pad_square(*overlap_counts(labels, masks, 4)))
    assert iou.shape == (4, 4)
    for row in range(4):
        for column in range(4):
            a = labels == row + 1
            b = masks[column] if column < 3 else np.zeros_like(a)
            union = (a | b).sum()
            expected = (a & b).sum() / (union + 1e-6) if union else 1.0
            assert iou[row, column] == pytest.approx(expected, abs=1e-6)


def test_matching_gives_the_row_of_each_column() -> None:
    """A permuted identity is undone."""
    order = np.array([2, 0, 1])
    iou = np.eye(3, dtype=np.float32)[order]
    assert np.array_equal(iou[match_rows_to_columns(iou)], np.eye(3))


def test_thresholds_are_validated() -> None:
    """A threshold outside its range is refused by name."""
    with pytest.raises(GmosError, match=r"threshold iou is 1\.5; expected a number from 0 to 1"):
        Thresholds(iou=1.5)
    with pytest.raises(GmosError, match="threshold max_objects is 0; expected a whole number"):
        Thresholds(max_objects=0)
