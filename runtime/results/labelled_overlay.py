"""Overlays for people: bright colours, ids, moving or still, and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ..frame_result import MapName
from .collected import Instance

COLOURS = (
    (255, 70, 70),
    (0, 200, 255),
    (255, 205, 0),
    (60, 225, 90),
    (255, 95, 225),
    (140, 140, 255),
    (255, 145, 40),
    (180, 255, 60),
    (0, 235, 185),
    (215, 160, 255),
)
"""RGB of the objects by id, from 1 on; as many as there may be objects. All are brighter than half grey."""
DARK = (16, 16, 16)
LIGHT = (255, 255, 255)

MOVING_SHARE, STILL_SHARE = 0.5, 0.15
"""Share of colour in the inside of an object."""
PIXELS_A_LINE = 400
"""An outline is one pixel wide and one more for as many pixels of the frame's shorter side."""
PIXELS_A_LETTER, LEAST_LETTER_PX = 30, 10
"""The same for the height of letters."""
PARTS_PX = 64
"""Rows or columns of an object, at most, by which its largest part is found."""
LEAST_SIDE_PX = 96
"""Frames with a shorter side have no room for letters."""

TITLES: Mapping[MapName, str] = {
    "mos-i": "MOS-I: objects while they move",
    "mos": "MOS: filled while they move",
    "tracked": "Live: filled while they move",
    "foreground": "GMOS-S: what moves",
}


def labelled_overlay(
    rgb: NDArray[np.uint8], objects: Sequence[Instance], result: MapName
) -> NDArray[np.uint8]:
    """Draw objects over a frame, which is left as it is.

    Objects are filled while they move and hardly while they are still, and outlined in their colour between dark lines;
    with their ids, and a legend, unless the frame is too small.

    Args:
        rgb: (H, W, 3) uint8.
        objects: those of one result on this frame.
        result: which, or `tracked` of a stream; the legend says it.

    Returns:
        (H, W, 3) uint8.
    """
    drawn = rgb.copy(order="C")
    side = min(rgb.shape[:2])
    width = 1 + side // PIXELS_A_LINE
    for one in objects:
        _fill(drawn, one, width)
    if side < LEAST_SIDE_PX:
        return drawn
    picture = Image.fromarray(drawn)
    letter_px = max(LEAST_LETTER_PX, side // PIXELS_A_LETTER)
    if result != "foreground":
        for one in objects:
            x, y = _largest_part(one)
            text = f"{one.id} {'moving' if one.moving else 'still'}"
            _tag(picture, (x, y - letter_px - 4), text, letter_px=letter_px, colour=colour_of(one.id))
    _tag(picture, (0, picture.height), TITLES[result], letter_px=letter_px, colour=LIGHT)
    return np.asarray(picture)


def colour_of(number: int) -> tuple[int, int, int]:
    """RGB of an object by its id."""
    return COLOURS[(number - 1) % len(COLOURS)]


def _largest_part(one: Instance) -> tuple[int, int]:
    """Left and top of an object's largest part: over the box of two, a tag may lie on something else."""
    x0, y0, x1, y1 = one.box
    # Every few pixels tell which it is.
    step = 1 + min(x1 - x0, y1 - y0) // PARTS_PX
    parts, count = ndimage.label(one.mask[y0:y1:step, x0:x1:step])
    if count < 2:
        return x0, y0
    rows, columns = ndimage.find_objects(parts)[np.bincount(parts.ravel())[1:].argmax()]
    return x0 + columns.start * step, y0 + rows.start * step


def _fill(drawn: NDArray[np.uint8], one: Instance, width: int) -> None:
    """Draw an object's inside and outline where its box is, and a little around it."""
    x0, y0, x1, y1 = one.box
    part = (slice(max(y0 - width, 0), y1 + width), slice(max(x0 - width, 0), x1 + width))
    mask, pixels = one.mask[part], drawn[part]
    share = MOVING_SHARE if one.moving else STILL_SHARE
    colour = np.array(colour_of(one.id), np.uint8)
    steps = np.arange(256)[:, None] * (1 - share) + colour * share
    for channel, table in enumerate(np.rint(steps).astype(np.uint8).T):
        pixels[..., channel] = np.where(mask, table[pixels[..., channel]], pixels[..., channel])
    # The edge of the frame is none of the object's.
    pixels[mask & _grown(~mask, width)] = colour
    pixels[_grown(mask, width) & ~mask] = DARK


def _grown(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """A mask and what is at most so many steps up, down, left or right of it."""
    for _ in range(width):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


@lru_cache(maxsize=8)
def _font(letter_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Reading the font takes longer than drawing with it."""
    return ImageFont.load_default(size=letter_px)


def _tag(
    picture: Image.Image, at: tuple[int, int], text: str, *, letter_px: int, colour: tuple[int, int, int]
) -> None:
    """Dark letters on a colour, moved into the frame."""
    pen, font = ImageDraw.Draw(picture), _font(letter_px)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = round(right - left) + 4, round(bottom - top) + 4
    x = max(0, min(at[0], picture.width - wide))
    y = max(0, min(at[1], picture.height - high))
    pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
    pen.text((x + 2 - left, y + 2 - top), text, fill=DARK, font=font)
