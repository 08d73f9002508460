"""Losses of the nano networks, and the matching of queries to objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from losses import dice_loss, flow_loss, mask_loss, soft_iou
from query_matching import DICE_WEIGHT, MASK_WEIGHT, frame_loss, match, match_cost, usable_score

from gmos_deploy.gmos_ref.gmos.proposer import Proposals

SURE = 12.0
"""A logit whose sigmoid is 1 or 0 to five digits."""


def squares(*corners: tuple[int, int]) -> torch.Tensor:
    """Masks (O, 16, 16), each with a 5 x 5 square at a corner."""
    masks = torch.zeros(len(corners), 16, 16)
    for mask, (top, left) in zip(masks, corners, strict=True):
        mask[top : top + 5, left : left + 5] = 1
    return masks


def logits_of(masks: torch.Tensor) -> torch.Tensor:
    return (masks * 2 - 1) * SURE


def test_a_perfect_mask_costs_nothing_and_its_opposite_much() -> None:
    """Cross-entropy and dice both vanish at the target."""
    target = squares((2, 3))
    assert mask_loss(logits_of(target), target).item() < 1e-3
    assert mask_loss(-logits_of(target), target).item() > 10


def test_pixels_without_weight_do_not_count() -> None:
    """A wrong pixel that is not sure changes nothing."""
    target = squares((2, 3))
    wrong = logits_of(target)
    wrong[0, 15, 15] = SURE
    weight = torch.ones_like(target)
    weight[0, 15, 15] = 0
    assert mask_loss(wrong, target, weight).item() < 1e-3 < mask_loss(wrong, target).item()


def test_an_empty_prediction_of_nothing_is_right() -> None:
    """Dice is smoothed, so nothing against nothing costs nothing, and IoU is 1."""
    empty = torch.zeros(1, 16, 16)
    assert dice_loss(logits_of(empty), empty).item() < 1e-2
    assert soft_iou(logits_of(empty), empty).item() == 1
    assert soft_iou(logits_of(squares((0, 0))), empty).item() == 0


def test_iou_counts_shared_over_joint_pixels() -> None:
    """Two 5 x 5 squares that share 3 x 5 pixels: 15 of 35."""
    value = soft_iou(logits_of(squares((0, 0))), squares((2, 0))).item()
    assert value == pytest.approx(15 / 35)


def test_flow_is_measured_in_its_scale_and_only_where_known() -> None:
    """A target of 8 px at scale 4 is met by 2; unknown places are free."""
    flow = torch.tensor([[[2.0, 0.0], [9.0, 9.0]]])
    target = torch.tensor([[[8.0, 0.0], [0.0, 0.0]]])
    assert flow_loss(flow, target, torch.tensor([[1.0, 0.0]]), 4.0).item() == 0
    assert flow_loss(flow, target, torch.tensor([[1.0, 1.0]]), 4.0).item() > 1


def test_matching_finds_the_permutation() -> None:
    """Each object goes to the query that has its mask, whatever the order."""
    objects = squares((0, 0), (8, 2), (5, 10))
    order = [2, 0, 1]
    masks = torch.full((5, 16, 16), -SURE)
    masks[[4, 1, 3]] = logits_of(objects)[order]
    rows, columns = match(match_cost(masks, torch.zeros(5), objects))
    assert dict(zip(columns.tolist(), rows.tolist(), strict=True)) == {2: 4, 0: 1, 1: 3}


def test_cost_of_a_pair_is_its_own_cross_entropy_and_dice() -> None:
    """The product form equals the plain one."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(3, 16, 16, generator=generator)
    objects = squares((0, 0), (8, 2))
    cost = match_cost(masks, torch.full((3,), -100.0), objects)
    for q in range(3):
        for o in range(2):
            cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(masks[q], objects[o])
            expected = MASK_WEIGHT * cross_entropy + DICE_WEIGHT * dice_loss(masks[q], objects[o])
            assert cost[q, o].item() == pytest.approx(expected.item(), rel=1e-4)


def proposals(masks: torch.Tensor, motion: torch.Tensor, ious: torch.Tensor) -> Proposals:
    return Proposals(
        mask_logits=masks[None], motion_logits=motion[None], ious=ious[None], confidences=(1 + 4 * ious)[None]
    )


def test_right_answers_cost_next_to_nothing() -> None:
    """Masks, motion, scores and confidences at their targets."""
    objects = squares((0, 0), (8, 2))
    masks = torch.full((4, 16, 16), -SURE)
    masks[[1, 2]] = logits_of(objects)
    chosen = torch.tensor([-1.0, 1.0, 1.0, -1.0])
    right = proposals(masks, chosen * SURE, (chosen + 1) / 2)
    loss, ious = frame_loss(right, 0, objects, torch.tensor([True, True]))
    assert loss.item() < 0.01
    assert ious == [1.0, 1.0]


def test_motion_of_an_unsure_object_is_free() -> None:
    """Its query may say either; a sure one may not."""
    objects = squares((0, 0))
    masks = torch.full((2, 16, 16), -SURE)
    masks[0] = logits_of(objects)[0]
    scores = torch.tensor([1.0, 0.0])

    def loss(motion: float, sure: bool) -> float:
        answer = proposals(masks, torch.tensor([motion, -SURE]), scores)
        return frame_loss(answer, 0, objects, torch.tensor([sure]))[0].item()

    assert loss(-SURE, sure=False) == pytest.approx(loss(SURE, sure=False), abs=1e-3)
    assert loss(-SURE, sure=True) > loss(SURE, sure=True) + 1


def test_without_objects_every_query_should_rest() -> None:
    """Nothing to match is no error, and motion costs."""
    masks, scores = torch.full((2, 16, 16), -SURE), torch.zeros(2)
    none = torch.zeros(0, 16, 16)
    still, _ = frame_loss(
        proposals(masks, torch.full((2,), -SURE), scores), 0, none, torch.zeros(0, dtype=torch.bool)
    )
    moving, _ = frame_loss(
        proposals(masks, torch.full((2,), SURE), scores), 0, none, torch.zeros(0, dtype=torch.bool)
    )
    assert still.item() < 0.01 < moving.item()


def test_score_keeps_the_order_of_ious() -> None:
    """The published threshold of 0.7 stands at an IoU of about a third."""
    ious = torch.linspace(0, 1, 50)
    scores = usable_score(ious)
    assert torch.all(scores.diff() > 0)
    assert np.interp(0.7, scores.numpy(), ious.numpy()) == pytest.approx(0.331, abs=0.01)


def test_idle_queries_must_be_empty() -> None:
    """A query without an object that covers a part of the frame would take its pixels from the others."""
    objects = squares((0, 0))
    full = logits_of(objects)
    empty, covering = torch.full_like(full, -SURE), torch.full_like(full, SURE)
    motion, scores = torch.tensor([SURE, -SURE]), torch.tensor([1.0, 0.0])
    certain = torch.ones(1, dtype=torch.bool)
    good, _ = frame_loss(proposals(torch.cat([full, empty]), motion, scores), 0, objects, certain)
    bad, _ = frame_loss(proposals(torch.cat([full, covering]), motion, scores), 0, objects, certain)
    assert good.item() < 0.1 < bad.item()
