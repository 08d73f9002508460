"""Small pictures beside each other, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

PICTURE_WIDTH_PX = 300
"""Width of one picture; smaller ones stay as they are."""

GAP_PX = 6
GREY = (128, 128, 128)


def reduced(image: Image.Image, resample: Image.Resampling) -> Image.Image:
    """At picture width. NEAREST keeps the colours of thin objects, BOX single pixels visible."""
    height = max(1, round(image.height * PICTURE_WIDTH_PX / image.width))
    return image.resize((PICTURE_WIDTH_PX, height), resample)


def strip_png(images: Sequence[Image.Image], *, colours: int | None = None) -> bytes:
    """A PNG of pictures side by side; `colours` is the size of its palette, None keeps all."""
    width = sum(image.width for image in images) + GAP_PX * (len(images) - 1)
    canvas = Image.new("RGB", (width, max(image.height for image in images)), GREY)
    left = 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width + GAP_PX
    buffer = io.BytesIO()
    (canvas if colours is None else canvas.quantize(colours)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
