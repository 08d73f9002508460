"""Bilinear resize of a mask, pixel for pixel the one the published MOS-I script asks of PyTorch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .label_maps import Labels, Mask

_Index = npt.NDArray[np.intp]
_Weight = npt.NDArray[np.float32]


def resize_label(labels: Labels, label: int, hw: tuple[int, int]) -> Mask:
    """The mask of one label at another size: bilinear, align_corners false, above 0.5.

    Float32 throughout, in the order of `torch.nn.functional.interpolate`, because ties at 0.5
    decide pixels.

    Args:
        labels: uint8 (H, W).
        label: the label whose mask is wanted.
        hw: target height and width in pixels.

    Returns:
        bool of size `hw`.
    """
    mask = (labels == label).astype(np.float32)
    top, bottom, top_weight, bottom_weight = _taps(labels.shape[0], hw[0])
    left, right, left_weight, right_weight = _taps(labels.shape[1], hw[1])
    across = left_weight * mask[:, left] + right_weight * mask[:, right]
    resized = top_weight[:, None] * across[top] + bottom_weight[:, None] * across[bottom]
    return np.asarray(resized > np.float32(0.5))


def _taps(source: int, target: int) -> tuple[_Index, _Index, _Weight, _Weight]:
    """Two source positions and their weights for every target position along one axis."""
    scale = np.float32(source) / np.float32(target)
    centre = np.arange(target) + 0.5
    # One rounding at the end, not two: PyTorch's builds fuse this multiplication and subtraction.
    position = np.maximum((scale.astype(np.float64) * centre - 0.5).astype(np.float32), np.float32(0.0))
    first = np.minimum(position.astype(np.intp), source - 1)
    second = np.minimum(first + 1, source - 1)
    weight = np.clip(position - first.astype(np.float32), np.float32(0.0), np.float32(1.0))
    return first, second, np.float32(1.0) - weight, weight
