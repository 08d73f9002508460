"""Cutouts and photographs from unpacked Debian packages and installed Python ones, and which are held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from textures import Rgb, is_held_out, picture_files

Bytes = NDArray[np.uint8]
Part = Literal["training", "held out"]

STAMPS = "usr/share/tuxpaint/stamps"
"""Where `tuxpaint-stamps-default` has its pictures (GPL-2)."""

PHOTOGRAPHS = (
    *(f"usr/share/backgrounds/mate/nature/{name}.jpg" for name in (
        "Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird", "RainDrops", "Storm",
        "TwoWings", "Wood", "YellowFlower",
    )),
    *(f"usr/share/wallpapers/{name}/contents/images/2560x1600.jpg" for name in (
        "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "Kite",
        "OneStandsOut", "Path", "summer_1am",
    )),
)  # fmt: skip
"""Those wallpapers of `mate-backgrounds` and `plasma-workspace-wallpapers` (GPL-2 or later) that are photographs.

The other ones are drawn; so are all of `gnome-backgrounds` 43.
"""

SIZE_NAME = "2560x1600.jpg"
"""Pictures that are named by their size go by the name of their wallpaper."""

LEAST_STAMP_PX = 160
"""Longer side of a stamp; smaller ones are icons."""

STAMP_PX = 320
"""Longer side that larger stamps are reduced to: the largest object in a clip of 448 px."""

COVERED = (0.15, 0.97)
"""Share of its box that a stamp covers: neither sticks nor pictures with a frame."""

STROKE_PX, LEAST_SOLID = 9, 0.5
"""Drawings of lines are left out: at least half of a stamp is farther than half a stroke from its rim."""

PHOTOGRAPH_PX = 720
"""Shorter side that photographs are reduced to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutout:
    """A picture (H, W, 4) uint8 with straight alpha, cropped to what is opaque."""

    name: str
    rgba: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What clips are made of."""

    cutouts: tuple[Cutout, ...]
    photographs: tuple[Rgb, ...]


def load_material(root: Path, part: Part) -> Material:
    """Read the pictures of a part.

    Args:
        root: folder that `dpkg-deb -x` unpacked the packages into.
        part: what is trained on, or what is held out.

    Raises:
        FileNotFoundError: no cutouts or no photographs of this part lie there.
    """
    wanted = part == "held out"
    stamps = sorted((root / STAMPS).rglob("*.png"), key=lambda path: path.relative_to(root).as_posix())
    cutouts = [_cutout(path) for path in stamps if is_held_out(path.name) == wanted]
    pictures = [path for name in PHOTOGRAPHS if (path := root / name).exists()] + picture_files()
    photographs = [_photograph(path) for path in pictures if is_held_out(_own_name(path)) == wanted]
    found = tuple(cutout for cutout in cutouts if cutout is not None)
    if not found or not photographs:
        raise FileNotFoundError(
            f"{root}: {len(found)} cutouts and {len(photographs)} photographs for {part}; unpack "
            "tuxpaint-stamps-default, mate-backgrounds and plasma-workspace-wallpapers there with dpkg-deb -x"
        )
    return Material(cutouts=found, photographs=tuple(photographs))


def _own_name(path: Path) -> str:
    return path.parents[2].name if path.name == SIZE_NAME else path.name


def _cutout(path: Path) -> Cutout | None:
    """A stamp, or None where it is an icon, a line drawing or has no matte."""
    with Image.open(path) as image:
        if max(image.size) < LEAST_STAMP_PX or not image.has_transparency_data:
            return None
        picture = image.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox())
    if max(picture.size) < LEAST_STAMP_PX or min(picture.size) < LEAST_STAMP_PX // 4:
        return None
    picture.thumbnail((STAMP_PX, STAMP_PX), Image.Resampling.BOX)
    rgba = np.asarray(picture)
    opaque = picture.getchannel("A").point(lambda a: 255 * (a > 127))
    covered = float(np.mean(np.asarray(opaque) > 0))
    solid = float(np.mean(np.asarray(opaque.filter(ImageFilter.MinFilter(STROKE_PX))) > 0))
    whole = COVERED[0] <= covered <= COVERED[1] and solid >= LEAST_SOLID * covered
    return Cutout(name=path.name, rgba=rgba) if whole else None


def _photograph(path: Path) -> Rgb:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    scale = PHOTOGRAPH_PX / min(picture.size)
    if scale < 1:
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
    return np.asarray(picture, np.float32) / 255
