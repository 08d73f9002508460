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
from ..files.regular_file import open_regular

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG")
"""All that Pillow may take a file for, whatever its name: others start programs, as EPS does Ghostscript."""
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m4v", ".mpg", ".gif")
PNG_DEPTH_AT = 24
"""Where a PNG file has its bits a channel; Pillow reads 16 of a colour image as their upper 8 without a word."""
EXIF_ORIENTATION = 0x0112
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error, zlib.error)
"""What Pillow raises on damaged files, depending on the format and the place of the damage."""


def list_frames(directory: Path) -> tuple[Path, ...]:
    """The frame files of a directory, sorted by name. Hidden and other files are passed over.

    Raises:
        GmosError: there is no frame, one is a broken link or no file, or there is more than one extension (upper and
            lower case count as one).
    """
    try:
        entries = sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
        files = [entry for entry in entries if entry.is_file()]
    except OSError as error:
        raise GmosError(
            f"{directory} cannot be listed: {error.strerror}; expected a readable directory"
        ) from error
    for entry in entries:
        if entry.suffix.lower() in FRAME_SUFFIXES and not entry.is_file() and not entry.is_dir():
            what = f"a broken link to {entry.readlink()}" if entry.is_symlink() else "no regular file"
            raise GmosError(
                f"{entry} is {what}; expected a frame: without it all later masks would be numbered one too low; "
                f"make it readable or remove it"
            )
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
        return f"holds directories ({len(entries)}) and no frame: give these themselves"
    for suffix in VIDEO_SUFFIXES:
        if counts[suffix]:
            return f"holds {suffix} files ({counts[suffix]}) and no frame: give these themselves"
    found = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in counts.most_common(3))
    return f"holds no frame ({found})"


def check_frames(paths: Sequence[Path]) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Read the headers of all frames: their common (height, width), and remarks worth a log line.

    Raises:
        GmosError: a frame is no image, has more than 8 bits a channel, is huge, or has another size.
    """
    first_wh: tuple[int, int] | None = None
    turned: list[Path] = []
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
                    size_wh = image.size
                    if "exif" in image.info and image.getexif().get(EXIF_ORIENTATION, 1) != 1:
                        turned.append(path)
                    file.seek(PNG_DEPTH_AT)
                    depth = file.read(1)[0] if image.format == "PNG" else 8
            except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
                raise GmosError(
                    f"{path} is too large: more than {Image.MAX_IMAGE_PIXELS} pixels; scale the frames down"
                ) from error
            except UNREADABLE as error:
                raise _damaged(path, error) from error
        if depth > 8:
            raise GmosError(
                f"{path} has more than 8 bits a channel ({depth}); expected 8-bit grey or colour; convert the frames, "
                f"for instance with magick mogrify -path DIRECTORY -depth 8 *.png (before -depth, -level 0,4095 for "
                f"the values of a 12-bit camera)"
            )
        first_wh = first_wh or size_wh
        if size_wh != first_wh:
            raise GmosError(
                f"{path} is {size_wh[0]}x{size_wh[1]} pixels and {paths[0].name} is "
                f"{first_wh[0]}x{first_wh[1]}; expected frames of one size"
            )
    if first_wh is None:
        raise GmosError("no frames were given; expected at least one")
    notes = _order_note(paths) or _gap_note(paths)
    if turned:
        others = f" and {len(turned) - 1} more have" if len(turned) > 1 else " has"
        notes += (
            f"{turned[0]}{others} an EXIF orientation, which is ignored: masks match the stored pixels",
        )
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


def _gap_note(paths: Sequence[Path]) -> tuple[str, ...]:
    """Remarks on names unlike the others, and on numbers that are left out."""
    shapes = [re.sub(r"[0-9]+", "#", path.stem) for path in paths]
    usual, _ = Counter(shapes).most_common(1)[0]
    odd = [path for path, shape in zip(paths, shapes, strict=True) if shape != usual]
    notes = []
    if odd:
        notes.append(f"names unlike the others: {len(odd)} of {len(paths)}, {odd[0].name} the first of them")
    regular = [path for path, shape in zip(paths, shapes, strict=True) if shape == usual and "#" in shape]
    numbers = [int(re.findall(r"[0-9]+", path.stem)[-1]) for path in regular]
    steps = [after - before for before, after in pairwise(numbers)]
    step = Counter(steps).most_common(1)[0][0] if steps else 1
    gaps = [index for index, found in enumerate(steps) if found > step]
    if gaps:
        before, after = regular[gaps[0]].name, regular[gaps[0] + 1].name
        notes.append(
            f"the numbers of frames have gaps ({len(gaps)}), the first between {before} and {after}; frames are taken "
            f"as neighbours, and results are numbered from 0"
        )
    return tuple(notes)


def read_frame(path: Path) -> NDArray[np.uint8]:
    """Decode one frame to (H, W, 3) uint8 RGB. Grey is repeated, alpha dropped, EXIF orientation ignored.

    Raises:
        GmosError: the file is damaged.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
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
