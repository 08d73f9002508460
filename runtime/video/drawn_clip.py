"""A clip that is drawn, in whole numbers: the same bytes on every machine and NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRAMES, VIDEO_HW = 16, (252, 448)

CELLS_PX = (32, 8)
"""Side of the cells of each layer of noise; the first weighs three times as much."""

DISC_RADIUS_PX, BOX_SIDE_PX = 48, 84
STOPS_AT = 9
"""The frame from which on the box is at rest: MOS still has it, MOS-I has not."""


def drawn_clip() -> list[NDArray[np.uint8]]:
    """Frames (252, 448, 3) uint8: a disc crosses, a box moves and stops, a disc like the first lies still."""
    height, width = VIDEO_HW
    ground, skin, wood = (_noise(seed, height, width) for seed in (11, 23, 37))
    skin, wood = skin * (256, 128, 77) // 256, wood * (90, 160, 256) // 256
    rows, columns = np.mgrid[:height, :width]
    frames = []
    for t in range(FRAMES):
        frame = ground.copy()
        for x, y in ((80, 190), (74 + 6 * t, 66)):
            disc = (columns - x) ** 2 + (rows - y) ** 2 < DISC_RADIUS_PX**2
            _draw(frame, disc, skin, shift=(y, x))
        left, top = 380 - 6 * min(t, STOPS_AT), 160
        box = (abs(columns - left) * 2 < BOX_SIDE_PX) & (abs(rows - top - 20) * 2 < BOX_SIDE_PX)
        _draw(frame, box, wood, shift=(top, left))
        frames.append(frame.astype(np.uint8))
    return frames


def _draw(
    frame: NDArray[np.int64], where: NDArray[np.bool_], texture: NDArray[np.int64], *, shift: tuple[int, int]
) -> None:
    """Put a texture that moves with its object where the object is; its seam is far away."""
    by = (shift[0] - VIDEO_HW[0] // 2, shift[1] - VIDEO_HW[1] // 2)
    frame[where] = np.roll(texture, by, axis=(0, 1))[where]


def _noise(seed: int, height: int, width: int) -> NDArray[np.int64]:
    """Smooth noise (H, W, 3), 0 to 255, a little coloured. Of PCG64 only raw numbers are taken, which never change."""
    generator, found = np.random.PCG64(seed), np.zeros((height, width, 3), np.int64)
    for cell, weight in zip(CELLS_PX, (3, 1), strict=True):
        grid_hw = (height // cell + 2, width // cell + 2)
        values = (generator.random_raw(grid_hw[0] * grid_hw[1] * 3) >> np.uint64(56)).astype(np.int64)
        found += weight * _enlarged(values.reshape(*grid_hw, 3), cell)[:height, :width]
    grey = found.sum(axis=2, keepdims=True) // 3
    mixed: NDArray[np.int64] = (3 * grey + found) // 16
    return mixed


def _enlarged(grid: NDArray[np.int64], cell: int) -> NDArray[np.int64]:
    """Bilinear between grid points that lie `cell` pixels apart."""
    for axis in (0, 1):
        first, after = (
            np.take(grid, range(grid.shape[axis] - 1), axis),
            np.take(grid, range(1, grid.shape[axis]), axis),
        )
        steps = np.arange(cell).reshape(-1, *(1,) * (grid.ndim - axis - 1))
        between = np.expand_dims(first, axis + 1) * (cell - steps) + np.expand_dims(after, axis + 1) * steps
        shape = list(first.shape)
        shape[axis] *= cell
        grid = between.reshape(shape) // cell
    return grid
