"""Mask logits at the video's size on a CPU, computed only where they can matter."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 64
"""Output rows handled at once, so that a block stays in the processor's cache (measured: 32 to 128 alike)."""

Logits = NDArray[np.float32]
Region = tuple[slice, slice]


@lru_cache(maxsize=16)
def _taps(size_in: int, size_out: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Logits]:
    """Both source positions of each output position and the weight of the second.

    Bilinear, align_corners false, no antialias: the field's usual resize of logits.
    """
    scale = np.float32(size_in / size_out)
    position = (np.arange(size_out, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    position = np.maximum(position, np.float32(0))
    first = np.minimum(position.astype(np.intp), size_in - 1)
    weight = position - first.astype(np.float32)
    return first, np.minimum(first + 1, size_in - 1), weight


def upsampled_regions(
    logits: Logits, video_hw: tuple[int, int], threshold: float
) -> Iterator[tuple[int, Region, Logits]]:
    """Bilinear resize of masks, without the parts that cannot exceed the threshold.

    Interpolated values lie between their four sources, so an output pixel can exceed the threshold
    only beside a source that does: each mask is computed on the bounding box of those, in blocks.

    Args:
        logits: (K, m, n) float32.
        video_hw: height and width of the output in pixels.
        threshold: a logit.

    Yields:
        Mask number, region of the (H, W) output and the values there; masks in ascending order.
    """
    _, source_h, source_w = logits.shape
    (top, bottom, row_weight), (left, right, column_weight) = (
        _taps(source_h, video_hw[0]),
        _taps(source_w, video_hw[1]),
    )
    for k, mask in enumerate(logits):
        above = mask > threshold
        rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
        if not len(rows):
            continue
        y0, y1 = np.searchsorted(bottom, rows[0]), np.searchsorted(top, rows[-1], "right")
        x0, x1 = np.searchsorted(right, columns[0]), np.searchsorted(left, columns[-1], "right")
        if y0 == y1 or x0 == x1:
            continue
        first_row = top[y0]
        source = mask[first_row : bottom[y1 - 1] + 1]
        weight = column_weight[x0:x1]
        wide = source[:, left[x0:x1]] * (1 - weight)
        wide += source[:, right[x0:x1]] * weight
        for a in range(y0, y1, BLOCK_ROWS):
            b = min(y1, a + BLOCK_ROWS)
            weight = row_weight[a:b, None]
            values = wide[top[a:b] - first_row]
            values *= 1 - weight
            lower = wide[bottom[a:b] - first_row]
            lower *= weight
            values += lower
            yield k, (slice(a, b), slice(x0, x1)), values


def argmax_labels(logits: Logits, video_hw: tuple[int, int], threshold: float = 0.0) -> NDArray[np.uint8]:
    """The mask that wins each pixel where its resized logit exceeds the threshold; ties to the first.

    Args:
        logits: (K, m, n) float32, K at most 255.
        video_hw: height and width of the output in pixels.
        threshold: a logit.

    Returns:
        (H, W) uint8, 0 or 1 + mask.
    """
    labels, _ = argmax_labels_and_masks(logits, video_hw, threshold, masks=False)
    return labels


def argmax_labels_and_masks(
    logits: Logits, video_hw: tuple[int, int], threshold: float, *, masks: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """As `argmax_labels`, and which pixels of each mask are above 0; (K, H, W) bool, K 0 if not wanted.

    The threshold is at most 0.
    """
    labels = np.zeros(video_hw, np.uint8)
    best = np.full(video_hw, threshold, np.float32)
    positive = np.zeros((len(logits) if masks else 0, *video_hw), np.bool_)
    for k, region, values in upsampled_regions(logits, video_hw, threshold):
        if masks:
            np.greater(values, 0, out=positive[k][region])
        known = best[region]
        labels[region][values > known] = k + 1
        np.maximum(known, values, out=known)
    return labels, positive
