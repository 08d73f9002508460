"""The DAVIS boundary measure F: how much of two contours lies within a tolerance of one another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

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
    """The boundary of a mask (bool, H x W), worked out in the window around it only."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        nothing = np.empty(0, np.intp)
        return Contour(nothing, nothing, np.zeros((0, 0), bool), (0, 0))
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    height, width = mask.shape
    # A boundary pixel may lie one above or left of the mask, and reaches `tolerance_px` from there.
    reach = tolerance_px + 1
    top, bottom = max(0, int(rows[0]) - reach), min(height, int(rows[-1]) + 1 + reach)
    left, right = max(0, int(columns[0]) - reach), min(width, int(columns[-1]) + 1 + reach)
    boundary = boundary_map(
        mask[top:bottom, left:right], last_row=bottom == height, last_column=right == width
    )
    if not boundary.any():
        nothing = np.empty(0, np.intp)
        return Contour(nothing, nothing, np.zeros((0, 0), bool), (0, 0))
    near = np.asarray(distance_transform_edt(~boundary) <= tolerance_px)
    boundary_rows, boundary_columns = np.nonzero(boundary)
    return Contour(boundary_rows + top, boundary_columns + left, near, (top, left))


def contour_f(predicted: Contour, annotated: Contour) -> float:
    """F of two contours: 2PR/(P + R); 1 if both are empty, 0 if one is."""
    if not len(predicted) or not len(annotated):
        return float(len(predicted) == len(annotated))
    precision, recall = predicted.share_near(annotated), annotated.share_near(predicted)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
