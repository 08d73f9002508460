"""Small pictures of a frame on which two runs differ: the frame, A, B and the difference."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...runtime.results.palette import davis_palette
from .mask_agreement import Labels

PICTURE_WIDTH_PX = 300
"""Width of one of the pictures."""

GAP_PX = 6

ONLY_A, ONLY_B, OTHER_LABEL = (232, 84, 60), (64, 160, 255), (240, 60, 240)
"""Pixels labelled in A only, in B only, and in both with different labels."""

BACKDROP = 0.35
"""Brightness of the frame behind the difference."""

Rgb = npt.NDArray[np.uint8]


def difference_map(a: Labels, b: Labels, backdrop: Rgb | None) -> Rgb:
    """Where two matched label maps (H, W) differ, by kind, over a darkened frame (H, W, 3) or black."""
    picture = np.zeros((*a.shape, 3), np.uint8)
    if backdrop is not None and backdrop.shape == picture.shape:
        picture = (backdrop * BACKDROP).astype(np.uint8)
    picture[(a != 0) & (b == 0)] = ONLY_A
    picture[(a == 0) & (b != 0)] = ONLY_B
    picture[(a != b) & (a != 0) & (b != 0)] = OTHER_LABEL
    return picture


def strip_png(a: Labels, b: Labels, frame: Rgb | None) -> bytes:
    """A PNG: the frame if there is one, A, B and the difference, side by side.

    Args:
        a: label map (H, W) of A.
        b: label map (H, W) of B, with A's labels.
        frame: RGB (H, W, 3).
    """
    colours = davis_palette()
    pictures = [] if frame is None else [frame]
    pictures += [colours[a], colours[b], difference_map(a, b, frame)]
    images = [_reduced(picture) for picture in pictures]
    width = sum(image.width for image in images) + GAP_PX * (len(images) - 1)
    canvas = Image.new("RGB", (width, max(image.height for image in images)), (128, 128, 128))
    left = 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width + GAP_PX
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _reduced(picture: Rgb) -> Image.Image:
    """At picture width; the largest filter keeps single differing pixels visible."""
    image = Image.fromarray(picture)
    if image.width <= PICTURE_WIDTH_PX:
        return image
    height = max(1, round(image.height * PICTURE_WIDTH_PX / image.width))
    return image.resize((PICTURE_WIDTH_PX, height), Image.Resampling.BOX)
