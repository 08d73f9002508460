"""Frames from a directory of JPEG or PNG files."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ...errors import GmosError

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow modes of more than 8 bits; converting them would clip, not scale."""
EXIF_ORIENTATION = 0x0112
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What Pillow raises on damaged files, depending on the format and the place of the damage."""


def list_frames(directory: Path) -> tuple[Path, ...]:
    """The frame files of a directory, sorted by name. Hidden and other files are passed over.

    Raises:
        GmosError: there is no frame, or there is more than one extension (upper and lower case count as one).
    """
    try:
        entries = sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
        files = [entry for entry in entries if entry.is_file()]
    except OSError as error:
        raise GmosError(
            f"{directory} cannot be listed: {error.strerror}; expected a readable directory"
        ) from error
    counts = Counter(file.suffix.lower() for file in files)
    kinds = {suffix: counts[suffix] for suffix in FRAME_SUFFIXES if counts[suffix]}
    if not kinds:
        raise GmosError(f"{directory} {_what_is_there(entries, counts)}; expected .jpg, .jpeg or .png frames")
    if len(kinds) > 1:
        found = ", ".join(f"{count} {suffix}" for suffix, count in kinds.items())
        raise GmosError(
            f"{directory} mixes extensions ({found}); expected one per directory; move the others away"
        )
    return tuple(file for file in files if file.suffix.lower() in kinds)


def _what_is_there(entries: Sequence[Path], counts: Counter[str]) -> str:
    if not entries:
        return "is an empty directory"
    if not counts:
        return f"holds {len(entries)} directories and no frame: give these directories themselves"
    if counts[".mp4"]:
        return f"holds {counts['.mp4']} .mp4 files and no frame: give these files themselves"
    found = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in counts.most_common(3))
    return f"holds no frame ({found})"


def check_frames(paths: Sequence[Path]) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Read the headers of all frames: their common (height, width), and remarks worth a log line.

    Raises:
        GmosError: a frame is no image, has more than 8 bits a channel, is huge, or has another size.
    """
    first_wh: tuple[int, int] | None = None
    turned = False
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                with Image.open(path) as image:
                    size_wh, mode = image.size, image.mode
                    if first_wh is None:
                        turned = image.getexif().get(EXIF_ORIENTATION, 1) != 1
            except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
                raise GmosError(
                    f"{path} is too large: more than {Image.MAX_IMAGE_PIXELS} pixels; scale the frames down"
                ) from error
            except UNREADABLE as error:
                raise _damaged(path, error) from error
        if mode in DEEP_MODES:
            raise GmosError(
                f"{path} has more than 8 bits a channel (Pillow mode {mode}); expected 8-bit grey or colour; "
                f"convert the frames"
            )
        first_wh = first_wh or size_wh
        if size_wh != first_wh:
            raise GmosError(
                f"{path} is {size_wh[0]}x{size_wh[1]} pixels and {paths[0].name} is "
                f"{first_wh[0]}x{first_wh[1]}; expected frames of one size"
            )
    if first_wh is None:
        raise GmosError("no frames were given; expected at least one")
    notes = _order_note(paths)
    if turned:
        notes += (f"{paths[0]} has an EXIF orientation, which is ignored: masks match the stored pixels",)
    return (first_wh[1], first_wh[0]), notes


def _order_note(paths: Sequence[Path]) -> tuple[str, ...]:
    """A remark where the order by name is not the order of the numbers in the names."""

    def natural(path: Path) -> list[tuple[int, str]]:
        parts = re.split(r"([0-9]+)", path.name)
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    for before, after in pairwise(paths):
        if natural(before) > natural(after):
            return (f"frames are sorted by name: {before.name} comes before {after.name}; pad the numbers",)
    return ()


def read_frame(path: Path) -> NDArray[np.uint8]:
    """Decode one frame to (H, W, 3) uint8 RGB. Grey is repeated, alpha dropped, EXIF orientation ignored.

    Raises:
        GmosError: the file is damaged.
    """
    try:
        with Image.open(path) as image:
            # Pillow warns when it drops a palette's transparency directly.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            return np.array(opaque.convert("RGB"))
    except UNREADABLE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> GmosError:
    reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
    return GmosError(
        f"frame {path} cannot be read: {' '.join(reason.split())}; expected a JPEG or PNG image; "
        f"replace or remove it"
    )


def read_frames(paths: Sequence[Path], video_hw: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Decode frames in the order given.

    Raises:
        GmosError: a frame is damaged, or its size has changed since the check.
    """
    for path in paths:
        rgb = read_frame(path)
        if rgb.shape[:2] != video_hw:
            raise GmosError(
                f"{path} is now {rgb.shape[1]}x{rgb.shape[0]} pixels, it was {video_hw[1]}x{video_hw[0]}; expected "
                "files that do not change; run again"
            )
        yield rgb
