"""A mask prompt at SAM2's image size: PyTorch's antialiased bilinear resize of a mask, cut at a half.

Ties at exactly a half are common where a mask is resized by a simple ratio, and there the last bit of
a float32 sum decides. So the sums are those of PyTorch's CPU kernel (2.x, x86), in its order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

THRESHOLD = np.float32(0.5)
"""A resized pixel belongs to the mask from this share on (published SAM2 code)."""

INSIDE, OUTSIDE = 1, 2
"""Bits of an input pixel. Their union over all that an output reads says whether it needs a sum."""

ROUNDED_PRODUCTS = 4
"""PyTorch's vertical sum rounds the products of so many taps at a time, and fuses those left over."""

LENGTHS_KEPT = 8
"""Filters kept: a video needs two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filter:
    """What each of n outputs along one axis reads.

    `first` (n,) int64 is its first input, `count` (n,) int64 how many it reads from there on, and
    `weights` (n, k) float32 their shares, 0 from `count` on.
    """

    first: NDArray[np.int64]
    count: NDArray[np.int64]
    weights: NDArray[np.float32]

    def at(self, outputs: NDArray[np.int64] | slice) -> _Filter:
        """The filter of some outputs."""
        return _Filter(first=self.first[outputs], count=self.count[outputs], weights=self.weights[outputs])

    def around(self, begin: int, last: int) -> tuple[_Filter, slice, slice]:
        """The outputs that read any of the inputs begin..last, and all that they read.

        Returns:
            Their filter on inputs counted from the first that is read, and the slices of the outputs
            and of the inputs: both lie side by side.
        """
        start = int(np.searchsorted(self.first + self.count, begin, side="right"))
        stop = int(np.searchsorted(self.first, last, side="right"))
        part = self.at(slice(start, stop))
        inputs = slice(int(part.first[0]), int(part.first[-1] + part.count[-1]))
        return replace(part, first=part.first - inputs.start), slice(start, stop), inputs


@lru_cache(maxsize=LENGTHS_KEPT)
def _filter(given_px: int, wanted_px: int) -> _Filter:
    """The triangle filter of a resize, rounded as PyTorch does: scale, centres and weights in float32."""
    scale = np.float32(given_px) / np.float32(wanted_px)
    support, squeeze = max(scale, np.float32(1)), min(np.float32(1) / scale, np.float32(1))
    centre = ((np.arange(wanted_px) + 0.5) * np.float64(scale)).astype(np.float32)[:, None]
    first = np.maximum(((centre - support).astype(np.float64) + 0.5).astype(np.int64), 0)
    stop = np.minimum(((centre + support).astype(np.float64) + 0.5).astype(np.int64), given_px)
    count = stop - first
    tap = np.arange(count.max())
    distance = (((first + tap).astype(np.float32) - centre) + 0.5) * np.float64(squeeze)
    weights = np.maximum(1 - np.abs(distance.astype(np.float32)), np.float32(0))
    weights[tap >= count] = 0
    # A running sum is the order in which PyTorch adds the weights; a pairwise one rounds otherwise.
    weights /= weights.cumsum(axis=1, dtype=np.float32)[:, -1:]
    return _Filter(first=first[:, 0], count=count[:, 0], weights=weights)


def resize_prompt(mask: NDArray[np.bool_], side_px: int) -> NDArray[np.uint8]:
    """Resize a mask to SAM2's square image.

    Equal to `torch.nn.functional.interpolate(mask, mode="bilinear", antialias=True) >= 0.5`. Most
    pixels read one value only: sums are computed along the outline alone.

    Args:
        mask: (H, W) bool.
        side_px: S, the side of the image.

    Returns:
        (S, S) uint8, 1 inside the mask.
    """
    resized = np.zeros((side_px, side_px), np.uint8)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return resized
    down, out_rows, in_rows = _filter(mask.shape[0], side_px).around(rows[0], rows[-1])
    across, out_columns, in_columns = _filter(mask.shape[1], side_px).around(columns[0], columns[-1])
    part = mask[in_rows, in_columns]
    bits = np.where(part, np.uint8(INSIDE), np.uint8(OUTSIDE))
    # Whole rows are cheaper to gather than columns.
    seen = _seen(_seen(bits.T, across).T, down)
    inside = seen == INSIDE
    outline = np.flatnonzero(seen == (INSIDE | OUTSIDE))
    y, x = np.divmod(outline, seen.shape[1])
    inside.flat[outline] = _shares(part, down.at(y), across.at(x)) >= THRESHOLD
    resized[out_rows, out_columns] = inside
    return resized


def _seen(values: NDArray[np.uint8], taps: _Filter) -> NDArray[np.uint8]:
    """All bits that an output reads along the first axis: (n, m) to (outputs, m)."""
    values = np.ascontiguousarray(values)
    seen = values[taps.first]
    for tap in range(1, taps.weights.shape[1]):
        # An output with fewer inputs reads its last one again.
        seen |= values[taps.first + np.minimum(tap, taps.count - 1)]
    return seen


def _shares(mask: NDArray[np.bool_], down: _Filter, across: _Filter) -> NDArray[np.float32]:
    """The resized values of n single pixels, added up to the bit as PyTorch does; (n,)."""
    rounded = 1 + (down.count - 1) // ROUNDED_PRODUCTS * ROUNDED_PRODUCTS
    sums = np.zeros(len(down.first), np.float32)
    for tap in range(down.weights.shape[1]):
        row = down.first + np.minimum(tap, down.count - 1)
        value = np.zeros(len(row), np.float32)
        for step in range(across.weights.shape[1]):
            column = across.first + np.minimum(step, across.count - 1)
            value += mask[row, column] * across.weights[:, step]
        weight = down.weights[:, tap]
        # A float64 product of float32 values is exact, so rounding the sum once is a fused one.
        fused = (sums + value.astype(np.float64) * weight).astype(np.float32)
        sums = np.where(tap < rounded, sums + value * weight, fused)
    return sums
