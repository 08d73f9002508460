"""A grid of captioned frames as one PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.files.atomic_file import replaced_at_end

GAP_PX = 4
CAPTION_PX = 16
"""Height of the letters."""
BACKGROUND = (255, 255, 255)
INK = (32, 32, 32)
HALVING = 2.0
"""Pillow's reducing gap: shrink in whole steps first, then filter at twice the size."""


def write_contact_sheet(
    path: Path,
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    *,
    row_captions: Sequence[str],
    column_captions: Sequence[str],
    tile_width_px: int = 320,
) -> None:
    """Write frames as a grid, for instance one row each for input, MOS-I and MOS, one column a time.

    Args:
        path: the .png to write; it appears whole or not at all.
        rows: frames (H, W, 3) uint8, all of one size, the same number in every row.
        row_captions: what each row shows, written at its left.
        column_captions: such as the time, written above each column.
        tile_width_px: width of one frame on the sheet.

    Raises:
        GmosError: nothing to show, frames of different sizes, captions that do not fit in number, or
            the file cannot be written.
    """
    shapes = {frame.shape for row in rows for frame in row}
    if len(shapes) != 1:
        raise GmosError(f"contact sheet {path}: frames of {len(shapes)} sizes; expected one size")
    if len(row_captions) != len(rows) or any(len(row) != len(column_captions) for row in rows):
        raise GmosError(
            f"contact sheet {path}: {len(rows)} rows of {sorted({len(row) for row in rows})} frames with "
            f"{len(row_captions)} row and {len(column_captions)} column captions; expected one for each"
        )
    if tile_width_px < 1:
        raise GmosError(f"contact sheet {path}: tiles {tile_width_px} pixels wide; expected at least 1")
    height, width, _ = next(iter(shapes))
    tile_wh = (tile_width_px, max(1, round(tile_width_px * height / width)))
    font = ImageFont.load_default(size=CAPTION_PX)
    left = round(max(font.getlength(caption) for caption in row_captions)) + 2 * GAP_PX
    top = CAPTION_PX + 2 * GAP_PX
    size_wh = (
        left + len(column_captions) * (tile_wh[0] + GAP_PX),
        top + len(rows) * (tile_wh[1] + GAP_PX),
    )
    sheet = Image.new("RGB", size_wh, BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for column, caption in enumerate(column_captions):
        middle = left + column * (tile_wh[0] + GAP_PX) + tile_wh[0] // 2
        pen.text((middle, top // 2), caption, INK, font, anchor="mm")
    for row, (caption, frames) in enumerate(zip(row_captions, rows, strict=True)):
        y = top + row * (tile_wh[1] + GAP_PX)
        pen.text((GAP_PX, y + tile_wh[1] // 2), caption, INK, font, anchor="lm")
        for column, frame in enumerate(frames):
            tile = Image.fromarray(frame).resize(tile_wh, Image.Resampling.LANCZOS, reducing_gap=HALVING)
            sheet.paste(tile, (left + column * (tile_wh[0] + GAP_PX), y))
    with replaced_at_end(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)
