"""Masks as one polygon each, holes and parts joined by bridges, that fills to the mask again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from ..frame_result import bounding_box

OUT = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
"""Steps (row, column) across the top, right, bottom and left side of a pixel."""
TOP, RIGHT, BOTTOM, LEFT = range(4)

Ring = NDArray[np.int64]
"""Pixels (P, 2) of a closed walk, row and column, each beside the one before it, corners included."""


def polygon(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A closed polygon (P, 2), x and y, through the centres of a mask's border pixels.

    Filled by the even-odd rule with its outline drawn, as OpenCV's `fillPoly` does, it is the mask, up to the bridges
    between parts: one pixel wide, from the nearest pixel to the nearest pixel, there and back. A part with fewer pixels
    than its bridge is left out. Bridges to holes run in the object and show nowhere. Parts touch at corners too; holes
    do not.

    Args:
        mask: (H, W) bool, not empty.
    """
    x0, y0, x1, y1 = bounding_box(mask)
    mask = mask[y0:y1, x0:x1]
    rings = _rings(mask)
    outer = [ring for ring, is_hole, _ in rings if not is_hole]
    walks = [list(map(tuple, ring.tolist())) for ring in outer]
    owner = {pixel: number for number, walk in enumerate(walks) for pixel in walk}
    # From left to right: what lies left of a hole's leftmost pixel has its place already.
    for ring, _, start in sorted((one for one in rings if one[1]), key=lambda one: one[2][1]):
        hole = list(map(tuple, ring.tolist()))
        row, column = start
        run = np.flatnonzero(~mask[row, :column])
        end = (row, int(run[-1]) + 1 if run.size else 0)
        number = owner[end]
        _splice(walks[number], walks[number].index(end), hole, hole.index(start))
        owner.update(dict.fromkeys(hole, number))
    parts = ndimage.label(mask, np.ones((3, 3)))[0]
    areas = np.bincount(parts.ravel())
    by_area = sorted(((int(areas[parts[walk[0]]]), walk) for walk in walks), reverse=True)
    joined = by_area[0][1]
    for area, walk in by_area[1:]:
        distance, nearest = cKDTree(joined).query(walk, p=np.inf)
        place = int(np.argmin(distance))
        if distance[place] - 1 <= area:
            _splice(joined, int(nearest[place]), walk, place)
    return _corners(np.array(joined))[:, ::-1] + (x0, y0)


def _splice(walk: list[tuple[int, ...]], at: int, other: list[tuple[int, ...]], start: int) -> None:
    """Go round another closed walk on the way, from its pixel `start` and back."""
    walk[at + 1 : at + 1] = [*other[start:], *other[: start + 1], walk[at]]


def _corners(walk: Ring) -> Ring:
    """A closed walk without the pixels on the straight between two others; three at least."""
    ahead = np.roll(walk, -1, axis=0) - walk
    behind = walk - np.roll(walk, 1, axis=0)
    cross = ahead[:, 0] * behind[:, 1] - ahead[:, 1] * behind[:, 0]
    forward = (ahead * behind).sum(axis=1) > 0
    kept = walk[(cross != 0) | ~forward]
    # A single pixel, or two: fewer than three points are no polygon to those who read it.
    return kept if len(kept) >= 3 else np.resize(kept if len(kept) else walk, (3, 2))


def _rings(mask: NDArray[np.bool_]) -> list[tuple[Ring, bool, tuple[int, int]]]:
    """The borders of a mask: pixels, whether it is a hole's, and of a hole a pixel left of its leftmost column.

    Sides of pixels toward the background are followed with the object on the right; pixels that touch at a corner
    belong together.
    """
    padded = np.pad(mask, 1)
    places, sides = [], []
    for direction, (down, right) in enumerate(OUT.tolist()):
        open_side = padded & ~np.roll(padded, (-down, -right), axis=(0, 1))
        places.append(np.argwhere(open_side))
        sides.append(np.full(len(places[-1]), direction))
    pixels, side = np.concatenate(places), np.concatenate(sides)
    width = padded.shape[1]

    def number(where: NDArray[np.int64], which: NDArray[np.int64]) -> NDArray[np.int64]:
        numbers: NDArray[np.int64] = (where[:, 0] * width + where[:, 1]) * 4 + which
        return numbers

    order = np.argsort(number(pixels, side))
    pixels, side = pixels[order], side[order]
    ahead = pixels + OUT[(side + 1) % 4]
    beyond = ahead + OUT[side]
    is_beyond, is_ahead = padded[tuple(beyond.T)], padded[tuple(ahead.T)]
    following = np.where(
        is_beyond,
        number(beyond, (side - 1) % 4),
        np.where(is_ahead, number(ahead, side), number(pixels, (side + 1) % 4)),
    )
    steps = np.searchsorted(number(pixels, side), following).tolist()
    rings, done = [], [False] * len(steps)
    for first in range(len(steps)):
        if done[first]:
            continue
        edges, edge = [], first
        while not done[edge]:
            done[edge] = True
            edges.append(edge)
            edge = steps[edge]
        ring, toward = pixels[edges], side[edges]
        # Round the object, the topmost sides are tops; round a hole they are bottoms of what is above it.
        is_hole = bool(toward[np.argmin(ring[:, 0] * 2 + (toward != TOP))] != TOP)
        rights = ring[toward == RIGHT]
        row, column = rights[np.argmin(rights[:, 1])] - 1
        kept = (ring != np.roll(ring, 1, axis=0)).any(axis=1)
        rings.append(((ring[kept] if kept.any() else ring[:1]) - 1, is_hole, (int(row), int(column))))
    return rings
