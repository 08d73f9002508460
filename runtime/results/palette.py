"""The 256 colours of the DAVIS benchmark, which palette PNGs and overlays share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PALETTE_SIZE = 256


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
