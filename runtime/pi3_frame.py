"""A video frame at the size Pi3 takes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import GmosError

PI3_AREA_PX = 255_000
"""Area budget of a Pi3 frame in pixels (published implementation)."""
PI3_PATCH_PX = 14
"""Side of a DINOv2 patch in pixels."""


def pi3_size_wh(
    width: int, height: int, area_px: int = PI3_AREA_PX, patch_px: int = PI3_PATCH_PX
) -> tuple[int, int]:
    """Width and height of the Pi3 frame: multiples of the patch, near the budget, near the aspect.

    Small videos are enlarged. The published rounding is kept, half to even included.

    Raises:
        GmosError: the video is so thin that one patch across already exceeds the budget.
    """
    scale = math.sqrt(area_px / (width * height))
    columns, rows = round(width * scale / patch_px), round(height * scale / patch_px)
    while columns * patch_px * rows * patch_px > area_px:
        if columns / rows > width / height:
            columns -= 1
        else:
            rows -= 1
    size_wh = (patch_px * max(1, columns), patch_px * max(1, rows))
    if size_wh[0] * size_wh[1] > area_px:
        raise GmosError(
            f"a video of {width}x{height} pixels is too thin: Pi3 would need {size_wh[0]}x{size_wh[1]}, "
            f"over its budget of {area_px} pixels; crop or pad the video to a wider shape"
        )
    return size_wh


def pi3_frame(rgb: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 to (3, h, w) uint8, 0..255, with Pillow's 8-bit Lanczos filter.

    Division by 255 and the normalisation belong to the network.
    """
    resized = Image.fromarray(rgb).resize(size_wh, Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
