"""IoU, precision and matching of masks, in float32 as the published implementation computes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

EPSILON = np.float32(1e-6)
"""Added to denominators. In float32 it vanishes beside any non-empty mask, which decides ties such as
12/40 < 0.3 (false in float32, true in float64)."""

Counts = NDArray[np.int64]


def overlap_counts(
    labels: NDArray[np.uint8], masks: NDArray[np.bool_], count: int
) -> tuple[Counts, Counts, Counts]:
    """Pixel counts between the labels 1..count of a map and a stack of masks.

    `labels` (H, W) uint8, `masks` (O, H, W) bool. Returns the intersections (count, O), the labels'
    areas (count,) and the masks' areas (O,).
    """
    areas = np.bincount(labels.ravel(), minlength=256)[1 : count + 1]
    intersections = np.zeros((count, len(masks)), np.int64)
    mask_areas = np.zeros(len(masks), np.int64)
    for o, mask in enumerate(masks):
        histogram = np.bincount(labels[mask], minlength=256)
        intersections[:, o] = histogram[1 : count + 1]
        mask_areas[o] = histogram.sum()
    return intersections, areas, mask_areas


def iou_matrix(intersections: Counts, row_areas: Counts, column_areas: Counts) -> NDArray[np.float32]:
    """IoU of every row mask with every column mask, 1 where both are empty; (rows, columns) float32."""
    unions = row_areas[:, None] + column_areas[None, :] - intersections
    iou = intersections.astype(np.float32) / (unions.astype(np.float32) + EPSILON)
    return np.where(unions == 0, np.float32(1), iou)


def precision(intersections: Counts, areas: Counts) -> NDArray[np.float32]:
    """Share of each mask that is covered; `areas` broadcasts against `intersections`; float32."""
    return intersections.astype(np.float32) / (areas.astype(np.float32) + EPSILON)


def pad_square(intersections: Counts, rows: Counts, columns: Counts) -> tuple[Counts, Counts, Counts]:
    """Append empty masks to the shorter side, so that both sides have as many."""
    size = max(len(rows), len(columns))
    padded = np.zeros((size, size), np.int64)
    padded[: len(rows), : len(columns)] = intersections
    return (
        padded,
        np.pad(rows, (0, size - len(rows))),
        np.pad(columns, (0, size - len(columns))),
    )


def match_rows_to_columns(iou: NDArray[np.float32]) -> NDArray[np.intp]:
    """Hungarian matching on 1 - IoU of a square matrix: the row matched to each column, (size,)."""
    rows, columns = linear_sum_assignment(np.float32(1) - iou)
    order = np.empty(len(rows), np.intp)
    order[columns] = rows
    return order
