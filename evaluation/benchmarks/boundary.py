"""The DAVIS boundary measure F: how much of two contours lies within a tolerance of one another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .label_maps import Mask

TOLERANCE_SHARE = 0.008
"""Tolerance as a share of the image diagonal."""


def boundary_tolerance_px(hw: tuple[int, int]) -> int:
    """The tolerance radius of a frame of height and width `hw`, in whole pixels."""
    return math.ceil(TOLERANCE_SHARE * math.hypot(*hw))


@dataclass(frozen=True, slots=True)
class Contour:
    """The boundary pixels of one mask, `rows` and `columns`, and the window within reach of them.

    `near` is true where a boundary pixel is at most the tolerance away; it covers the window whose
    top-left corner is `origin`. Outside it nothing is near.
    """

    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    near: Mask
    origin: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rows)

    def share_near(self, other: Contour) -> float:
        """The share of these boundary pixels that `other` is near to; 0 to 1."""
        rows, columns = self.rows - other.origin[0], self.columns - other.origin[1]
        height, width = other.near.shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return float(other.near[rows[inside], columns[inside]].sum()) / len(self)


_NO_CONTOUR = Contour(np.empty(0, np.intp), np.empty(0, np.intp), np.zeros((0, 0), bool), (0, 0))


def boundary_map(mask: Mask, *, last_row: bool = True, last_column: bool = True) -> Mask:
    """Pixels that differ from their right, lower or lower-right neighbour.

    Args:
        mask: bool (H, W).
        last_row: the mask ends at the image's last row, whose pixels look right only.
        last_column: the mask ends at the image's last column, whose pixels look below only.
            Where either is false, what lies beyond is taken as background.

    Returns:
        bool (H, W).
    """
    below = np.empty_like(mask)
    below[:-1] = mask[1:]
    below[-1] = mask[-1] if last_row else False
    right = np.empty_like(mask)
    right[:, :-1] = mask[:, 1:]
    right[:, -1] = mask[:, -1] if last_column else False
    diagonal = np.empty_like(mask)
    diagonal[:, :-1] = below[:, 1:]
    diagonal[:, -1] = below[:, -1] if last_column else False
    return np.asarray((mask != right) | (mask != below) | (mask != diagonal))


def contour(mask: Mask, tolerance_px: int) -> Contour:
    """The boundary of a mask (bool, H x W) and what lies within the tolerance of it."""
    height, width = mask.shape
    occupied = np.flatnonzero(mask.any(axis=1))
    if not len(occupied):
        return _NO_CONTOUR
    # A boundary pixel may lie one above or left of the mask.
    top, bottom = max(0, int(occupied[0]) - 1), min(height, int(occupied[-1]) + 2)
    occupied = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = max(0, int(occupied[0]) - 1), min(width, int(occupied[-1]) + 2)
    boundary = boundary_map(
        mask[top:bottom, left:right], last_row=bottom == height, last_column=right == width
    )
    rows, columns = np.nonzero(boundary)
    if not len(rows):
        return _NO_CONTOUR
    # Stamping a disc on every boundary pixel gives what a Euclidean distance transform gives, and
    # costs by the contour's length instead of by the window's area.
    near = np.zeros((bottom - top + 2 * tolerance_px, right - left + 2 * tolerance_px), dtype=bool)
    flat = near.ravel()
    positions = (rows + tolerance_px) * near.shape[1] + columns + tolerance_px
    for down in range(-tolerance_px, tolerance_px + 1):
        reach = math.isqrt(tolerance_px**2 - down**2)
        for across in range(-reach, reach + 1):
            flat[positions + (down * near.shape[1] + across)] = True
    origin = (top - tolerance_px, left - tolerance_px)
    return Contour(rows + top, columns + left, near, origin)


def contour_f(predicted: Contour, annotated: Contour) -> float:
    """F of two contours: 2PR/(P + R); 1 if both are empty, 0 if one is."""
    if not len(predicted) or not len(annotated):
        return float(len(predicted) == len(annotated))
    precision, recall = predicted.share_near(annotated), annotated.share_near(predicted)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def boundary_f(predicted: Mask, annotated: Mask, void: Mask | None = None) -> float:
    """The boundary measure of two masks, with void pixels cleared in both. All bool (H, W)."""
    if void is not None:
        predicted, annotated = predicted & ~void, annotated & ~void
    tolerance = boundary_tolerance_px((annotated.shape[0], annotated.shape[1]))
    return contour_f(contour(predicted, tolerance), contour(annotated, tolerance))
