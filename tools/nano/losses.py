"""Losses: masks, matched queries, and the auxiliary targets of the geometric encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_SMOOTHING = 1.0


def mask_loss(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, *, dice_weight: float = 0.5
) -> Tensor:
    """Binary cross-entropy plus the dice loss times its weight, per leading index.

    Args:
        logits: (..., H, W).
        target: (..., H, W) in [0, 1].
        weight: (..., H, W), 0 where a pixel does not count.
        dice_weight: how much small objects count: cross-entropy is a mean over all pixels.

    Returns:
        (...,).
    """
    weight = torch.ones_like(target) if weight is None else weight
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
    cross_entropy = each.sum((-1, -2)) / weight.sum((-1, -2)).clamp(min=1)
    return cross_entropy + dice_weight * dice_loss(logits, target, weight)


def dice_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """One minus the soft dice coefficient over the last two axes, smoothed so that empty meets empty."""
    weight = torch.ones_like(target) if weight is None else weight
    probability, target = logits.sigmoid() * weight, target * weight
    shared = (probability * target).sum((-1, -2))
    total = probability.sum((-1, -2)) + target.sum((-1, -2))
    return 1 - (2 * shared + DICE_SMOOTHING) / (total + DICE_SMOOTHING)


def flow_loss(flow: Tensor, target: Tensor, weight: Tensor, scale_px: float) -> Tensor:
    """Smooth L1 of the motion (..., 2) in pixels over a scale, where weight (...) says so."""
    each = F.smooth_l1_loss(flow, target / scale_px, reduction="none", beta=0.2).sum(-1)
    return (each * weight).sum() / weight.sum().clamp(min=1)


def soft_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU over the last two axes of logits > 0 with a binary target; 1 where both are empty."""
    inside, target = logits > 0, target > 0.5
    union = (inside | target).sum((-1, -2)).float()
    shared = (inside & target).sum((-1, -2)).float()
    return torch.where(union > 0, shared / union.clamp(min=1), 1.0)
