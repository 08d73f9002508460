"""Label maps of a backend whose arrays are on the host: computed where a mask can win a pixel, not everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import Array
from ..backend import Runner
from ..contract import NetworkName
from ..pipeline.mask_upsampling import argmax_labels, argmax_labels_and_masks
from ..tracker import LABEL_THRESHOLD_LOGIT

Arrays = Mapping[str, Any]
"""NumPy arrays by name."""


def proposal_labels(inputs: Arrays) -> dict[str, Array]:
    """See `contract`: mask logits (B, K, m, m) at the video's size as labels (B, H, W)."""
    height, width = inputs["video_hw"].tolist()
    frames = inputs["mask_logits"].astype(np.float32, copy=False)
    return {"labels": np.stack([argmax_labels(logits, (height, width)) for logits in frames])}


def tracked_labels(inputs: Arrays) -> dict[str, Array]:
    """See `contract`: mask logits (O, m, m) at the video's size as masks (O, H, W) and labels (H, W)."""
    height, width = inputs["video_hw"].tolist()
    logits = inputs["masks"].astype(np.float32, copy=False)
    labels, masks = argmax_labels_and_masks(logits, (height, width), LABEL_THRESHOLD_LOGIT)
    return {"positive": masks.view(np.uint8), "labels": labels}


HOST_LABELS: Mapping[NetworkName, Runner] = {
    "proposal_labels": proposal_labels,
    "tracked_labels": tracked_labels,
}
