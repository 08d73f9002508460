"""Matches a proposer's queries to the objects of a frame, and the loss of what was matched."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from losses import dice_loss, soft_iou
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gmos_deploy.gmos_ref.gmos.proposer import Proposals

MASK_WEIGHT, DICE_WEIGHT, MOTION_WEIGHT = 4.0, 2.0, 0.5
"""Of cross-entropy per pixel, dice and motion in the cost of a match and in its loss."""

IDLE_WEIGHT = 0.3
"""Of the motion loss of queries without an object, of which there are many."""

EMPTY_WEIGHT = 2.0
"""Of the loss of the masks of queries without an object."""


def match_cost(mask_logits: Tensor, motion_logits: Tensor, targets: Tensor) -> Tensor:
    """What it would cost each query (N,) to be each object (O,): (N, O).

    Args:
        mask_logits: (N, H, W).
        motion_logits: (N,).
        targets: (O, H, W) in [0, 1].
    """
    logits, wanted = mask_logits.flatten(1), targets.flatten(1)
    # Cross-entropy of every pair is a product: softplus(x) - x * y.
    cross_entropy = F.softplus(logits).mean(1)[:, None] - logits @ wanted.T / logits.shape[1]
    probability = logits.sigmoid()
    shared = probability @ wanted.T
    dice = 1 - (2 * shared + 1) / (probability.sum(1)[:, None] + wanted.sum(1)[None] + 1)
    motion = -motion_logits.sigmoid()[:, None]
    return MASK_WEIGHT * cross_entropy + DICE_WEIGHT * dice + MOTION_WEIGHT * motion


def match(cost: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cheapest one-to-one assignment of queries to objects: query and object numbers."""
    rows, columns = linear_sum_assignment(cost.detach().cpu().numpy())
    return rows, columns


def usable_score(iou: Tensor) -> Tensor:
    """What the IoU head learns: 1 - (1 - IoU)^3.

    The published thresholds trust a proposal from 0.7 on. This puts them where a small network's
    masks are of use, at an IoU of 0.33; the order of proposals is that of their IoUs.
    """
    return 1 - (1 - iou) ** 3


def frame_loss(
    proposals: Proposals, frame: int, targets: Tensor, certain: Tensor
) -> tuple[Tensor, list[float]]:
    """The loss of one frame of a batch, and the IoUs of its objects with their queries.

    Args:
        proposals: of a batch, at the size of the targets.
        frame: which of the batch.
        targets: (O, H, W) masks of the objects that move, or of which it is not sure whether they do.
        certain: (O,) bool, whether they surely move.
    """
    masks, motion = proposals.mask_logits[frame], proposals.motion_logits[frame]
    wanted_motion, motion_weight = torch.zeros_like(motion), torch.full_like(motion, IDLE_WEIGHT)
    wanted_score = torch.zeros_like(motion)
    loss, ious = masks.new_zeros(()), []
    idle = torch.ones_like(motion, dtype=torch.bool)
    if len(targets):
        queries, objects = match(match_cost(masks.detach(), motion.detach(), targets))
        chosen, wanted = masks[queries], targets[objects]
        cross_entropy = F.binary_cross_entropy_with_logits(chosen, wanted, reduction="none").mean((-1, -2))
        loss = (MASK_WEIGHT * cross_entropy + DICE_WEIGHT * dice_loss(chosen, wanted)).mean()
        overlap = soft_iou(chosen.detach(), wanted)
        ious = overlap[certain[objects]].tolist()
        idle[queries] = False
        wanted_motion[queries] = 1.0
        motion_weight[queries] = certain[objects].float()
        wanted_score[queries] = usable_score(overlap)
    if idle.any():
        # The label map gives each pixel to the strongest of all queries, trusted or not: the others must be empty.
        loss = loss + EMPTY_WEIGHT * F.softplus(masks[idle]).mean()
    each = F.binary_cross_entropy_with_logits(motion, wanted_motion, reduction="none")
    loss = loss + 2 * (each * motion_weight).sum() / motion_weight.sum().clamp(min=1)
    score_weight = torch.where(wanted_score > 0, 1.0, 0.1)
    loss = loss + ((proposals.ious[frame] - wanted_score).abs() * score_weight).sum() / score_weight.sum()
    wanted_confidence = 1 + 4 * wanted_score
    confidence = (proposals.confidences[frame] - wanted_confidence).abs() * score_weight
    return loss + 0.05 * confidence.sum() / score_weight.sum(), ious
