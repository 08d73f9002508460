"""The colours of labels, and labels drawn over a frame: half colour inside, white outlines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PALETTE_SIZE = 256

OUTLINE = 255
"""Value of all channels on the outline."""


def davis_palette() -> NDArray[np.uint8]:
    """RGB of each label, (256, 3) uint8; label 0 is black.

    Bits 0, 1 and 2 of the label are the highest bits of red, green and blue, bits 3, 4 and 5 the next
    lower ones, and so on (the colour map of PASCAL VOC, which DAVIS took over).
    """
    labels = np.arange(PALETTE_SIZE)
    palette = np.zeros((PALETTE_SIZE, 3), dtype=np.uint8)
    for bit in range(8):
        channel, weight = bit % 3, 0x80 >> (bit // 3)
        palette[:, channel] |= ((labels >> bit & 1) * weight).astype(np.uint8)
    return palette


_PALETTE_CHANNELS = np.ascontiguousarray(davis_palette().T)


def overlay(rgb: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw labels over a frame, which is left as it is.

    Pixels of a non-zero label become 0.5 frame + 0.5 palette, truncated; those with a 4-neighbour of
    another label become white. Neighbours outside the image do not count.

    Args:
        rgb: (H, W, 3) uint8.
        labels: (H, W) uint8, 0 for the background.

    Returns:
        (H, W, 3) uint8.
    """
    drawn = rgb.copy(order="C")
    rows = np.flatnonzero(labels.any(axis=1))
    if not rows.size:
        return drawn
    # Outlines are inside the labels, so nothing changes outside their rows; one row more on each side
    # is read to tell background neighbours.
    top, bottom = max(rows[0] - 1, 0), rows[-1] + 2
    part = np.ascontiguousarray(labels[top:bottom])
    values = drawn[top:bottom].reshape(-1)
    # NumPy finds what is set in a boolean array six times as fast as in an 8-bit one.
    inside = np.flatnonzero(part != 0)
    inside_labels = part.reshape(-1).take(inside)
    outline = np.flatnonzero(_outline(part))
    # One channel at a time: NumPy gathers single bytes faster than pixels of three.
    for channel in range(3):
        places = inside * 3 + channel
        colours = _PALETTE_CHANNELS[channel].take(inside_labels)
        before = values.take(places)
        # floor((a + b) / 2) in uint8: the bits both have, and half of those only one has.
        values[places] = (before & colours) + ((before ^ colours) >> 1)
        values[outline * 3 + channel] = OUTLINE
    return drawn


def _outline(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of a non-zero label beside another label, (H, W) bool."""
    outline = np.zeros(labels.shape, dtype=np.bool_)
    vertical = labels[1:] != labels[:-1]
    outline[1:] |= vertical
    outline[:-1] |= vertical
    horizontal = labels[:, 1:] != labels[:, :-1]
    outline[:, 1:] |= horizontal
    outline[:, :-1] |= horizontal
    outline &= labels != 0
    return outline
