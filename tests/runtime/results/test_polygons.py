"""Polygons: filled again they are the masks, holes exactly, parts up to their bridges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage

from gmos_deploy.runtime.results.polygons import polygon

TOUCHING = np.ones((3, 3), np.bool_)
"""Pixels that touch at a corner are of one part."""


def line(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels (P, 2), x and y, of a straight."""
    steps = int(np.abs(end - start).max())
    return np.rint(np.linspace(start, end, steps + 1)).astype(np.int64)


def filled(points: NDArray[np.int64], hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The polygon by its definition: a pixel is inside if a ray from it crosses the outline an odd number of times."""
    mask = np.zeros(hw, np.bool_)
    for y in range(hw[0]):
        for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
            if (start[1] <= y) != (end[1] <= y):
                x = start[0] + (y - start[1]) * (end[0] - start[0]) / (end[1] - start[1])
                mask[y, np.arange(hw[1]) > x] ^= True
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        x, y = line(start, end).T
        mask[y, x] = True
    return mask


def cost(mask: NDArray[np.bool_]) -> int:
    """Pixels that may differ: of every part but the largest its bridge, or the part itself."""
    labels, _ = ndimage.label(mask, TOUCHING)
    areas = sorted(np.bincount(labels.ravel())[1:].tolist())
    return sum(min(area, max(mask.shape)) for area in areas[:-1])


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_any_mask_comes_back(mask: NDArray[np.bool_]) -> None:
    """A mask of one part exactly; of several, what differs is their bridges, or parts that are smaller than these."""
    if not mask.any():
        return
    points = polygon(mask)
    again = filled(points, mask.shape)
    assert len(points) >= 3
    assert (again ^ mask).sum() <= cost(mask)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_opencv_fills_the_same(mask: NDArray[np.bool_]) -> None:
    """The filling that readers of labels use; exact where there is one part, with any number of holes."""
    cv2 = pytest.importorskip("cv2")
    if not mask.any():
        return
    labels, parts = ndimage.label(mask, TOUCHING)
    for part in range(1, parts + 1):
        one = labels == part
        again = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [polygon(one).astype(np.int32)], 1)
        np.testing.assert_array_equal(again.astype(bool), one)
    again = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [polygon(mask).astype(np.int32)], 1).astype(bool)
    assert (again ^ mask).sum() <= cost(mask)


def test_far_specks_are_left_out() -> None:
    """Their bridges would cost more than they are; near ones are joined."""
    mask = np.zeros((40, 60), np.bool_)
    mask[10:30, 5:25] = True
    mask[10:12, 28:30] = True
    mask[10, 50] = True
    again = filled(polygon(mask), (40, 60))
    assert not again[10, 50]
    assert again[10:12, 28:30].all()
    assert (again ^ mask).sum() == 3 + 1


def test_holes_cost_nothing() -> None:
    """Nested rings: a hole, a part in it, a hole in that."""
    mask = np.zeros((40, 40), np.bool_)
    for inset in range(0, 16, 4):
        mask[2 + inset : 38 - inset, 2 + inset : 38 - inset] = inset % 8 == 0
    again = filled(polygon(mask), (40, 40))
    assert again[mask].all()
    # One bridge to the part in the hole, over the hole's width of four.
    assert (again & ~mask).sum() == 4


@pytest.mark.parametrize("pixels", [[(3, 4)], [(3, 4), (3, 5)], [(3, 4), (4, 5)]])
def test_small_masks_have_three_points(pixels: list[tuple[int, int]]) -> None:
    """Fewer would be taken for a box."""
    mask = np.zeros((8, 9), np.bool_)
    for place in pixels:
        mask[place] = True
    points = polygon(mask)
    assert len(points) == 3
    np.testing.assert_array_equal(filled(points, (8, 9)), mask)


def test_straights_have_two_ends() -> None:
    """A rectangle is four points, clockwise."""
    mask = np.zeros((20, 30), np.bool_)
    mask[4:15, 6:26] = True
    assert sorted(map(tuple, polygon(mask).tolist())) == [(6, 4), (6, 14), (25, 4), (25, 14)]
