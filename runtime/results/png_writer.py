"""8-bit single-channel PNG files, with the DAVIS palette or grey.

Written here rather than by Pillow for speed: label maps are long runs, which zlib's run-length mode
packs five times faster than Pillow's default and smaller.
"""

from __future__ import annotations

import csv
import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import as_cell
from ..contract import Variant
from ..files.atomic_file import writing
from ..frame_result import FrameResult, MapName, ResultName
from ..media import Media
from .overlay import davis_palette

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BIT_DEPTH = 8
GREY, INDEXED = 0, 3
"""Colour types (PNG specification, section 11.2.1)."""
NO_FILTER, UP_FILTER = 0, 2
"""Row filters (PNG specification, section 9.2)."""
FAST_LEVEL = 1
"""zlib level; higher ones take up to seven times as long and save at most a fifth."""

INDEX = "index.csv"
"""Beside the PNGs: which frame each is of."""
INDEX_COLUMNS = ("output", "frame", "time_s", "name")

PngKind = Literal["palette", "grey"]


def encode_png(values: NDArray[np.uint8], kind: PngKind) -> bytes:
    """A PNG file of an (H, W) uint8 array: palette indices, or grey levels."""
    height, width = values.shape
    colour_type = INDEXED if kind == "palette" else GREY
    header = struct.pack(">IIBBBBB", width, height, BIT_DEPTH, colour_type, 0, 0, 0)
    rows = np.empty((height, width + 1), dtype=np.uint8)
    if kind == "palette":
        strategy = zlib.Z_RLE
        rows[:, 0] = NO_FILTER
        rows[:, 1:] = values
    else:
        # Probabilities change smoothly: differences to the row above pack better.
        strategy = zlib.Z_DEFAULT_STRATEGY
        rows[:, 0] = UP_FILTER
        rows[0, 1:] = values[0]
        np.subtract(values[1:], values[:-1], out=rows[1:, 1:])
    packer = zlib.compressobj(FAST_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    data = packer.compress(rows.data) + packer.flush()
    palette = _chunk(b"PLTE", davis_palette().tobytes()) if kind == "palette" else b""
    return SIGNATURE + _chunk(b"IHDR", header) + palette + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


class PngWriter:
    """Writes one PNG a frame into a directory: 00000.png, 00001.png, and so on."""

    def __init__(self, directory: Path, kind: PngKind) -> None:
        self._directory = directory
        self._kind: PngKind = kind
        self._written: set[int] = set()
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def frames_written(self) -> int:
        """Number of different frames written so far."""
        return len(self._written)

    def write(self, index: int, values: NDArray[np.uint8]) -> None:
        """Write (H, W) uint8 as frame `index`; frames may come in any order.

        Raises:
            GmosError: the file cannot be written.
        """
        path = self._directory / f"{index:05d}.png"
        with writing(path):
            path.write_bytes(encode_png(values, self._kind))
        self._written.add(index)


class _PngFrames:
    """The PNGs of one result. A `formats.FrameWriter`."""

    def __init__(self, path: Path, kind: PngKind, shown: MapName, media: Media) -> None:
        self._path = path
        self._writer = PngWriter(path, kind)
        self._shown: MapName = shown
        self._names = media.frame_names
        self._times_s: list[float] = []

    @property
    def frames_written(self) -> int:
        """See `formats.FrameWriter`."""
        return self._writer.frames_written

    def write(self, answer: FrameResult) -> None:
        """See `formats.FrameWriter`."""
        self._writer.write(answer.index, answer.values(self._shown))
        self._times_s.append(answer.time_s)

    def finish(self) -> None:
        """Say which frame is which: by its time, and of a directory by its name.

        Raises:
            GmosError: the file cannot be written.
        """
        text = io.StringIO()
        lines = csv.writer(text)
        lines.writerow(INDEX_COLUMNS)
        for index, time_s in enumerate(self._times_s):
            name = self._names[index] if self._names else ""
            lines.writerow((f"{index:05d}.png", index, f"{time_s:.6f}", as_cell(name)))
        path = self._path / INDEX
        with writing(path):
            path.write_text(text.getvalue(), encoding="utf-8", newline="")


@dataclass(slots=True, kw_only=True)
class PngFormat:
    """A folder of PNGs, one a frame, and `index.csv`. A `formats.ResultFormat`."""

    mode: str
    kind: PngKind
    folders: Mapping[Variant, Mapping[ResultName, str]]
    ending: str = ""
    needs_rgb: bool = False

    @contextmanager
    def writer(self, path: Path, result: ResultName, media: Media) -> Iterator[_PngFrames]:
        """See `formats.ResultFormat`."""
        frames = _PngFrames(path, self.kind, "probability" if self.kind == "grey" else result, media)
        yield frames
        frames.finish()

    def is_whole(self, path: Path, frames: int) -> bool:
        """See `formats.ResultFormat`."""
        return path.is_dir() and sum(1 for _ in path.glob("*.png")) == frames


MASKS = PngFormat(
    mode="mask",
    kind="palette",
    folders={"gmos": {"mos-i": "mos-i_frame", "mos": "mos_frame"}, "gmos-s": {"foreground": "frame"}},
)
"""Label maps as palette PNGs."""

PROBABILITIES = PngFormat(mode="prob", kind="grey", folders={"gmos-s": {"foreground": "prob"}})
"""GMOS-S's probabilities as grey PNGs."""
