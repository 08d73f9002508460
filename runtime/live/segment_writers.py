"""What is written of a stream's answers into the folder of one segment, by mode."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ..contract import Variant
from ..files.atomic_file import writing
from ..frame_result import FrameResult, MapName
from ..media import Media
from ..results.mp4_writer import Mp4Writer
from ..results.png_writer import PngKind, encode_png
from .objects import drawn, json_line

TRACKS, OVERLAY, INDEX = "tracks.jsonl", "overlay.mp4", "index.csv"
"""Files in a segment; every folder of PNGs has an index."""

INDEX_COLUMNS = ("output", "frame", "time_s", "ids")

CLOCK_S = Fraction(1, 90_000)
"""Unit of times in an .mp4 where the source states none: that of MPEG's streams."""


class SegmentWriter(AbstractContextManager["SegmentWriter"], Protocol):
    """Writes the answers of one segment. What it had written when its process was killed, `tidy` makes whole."""

    def write(self, answer: FrameResult) -> None:
        """Add one.

        Raises:
            GmosError: it cannot be written.
        """


class _Lines:
    """A file that grows by whole lines, each on its way to the disk when it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb", buffering=0)

    def add(self, line: bytes) -> None:
        with writing(self._path):
            rest = memoryview(line)
            # A disk that is nearly full takes a part.
            while rest:
                rest = rest[self._file.write(rest) or 0 :]

    def close(self) -> None:
        with writing(self._path):
            self._file.close()


class TrackLines:
    """`tracks.jsonl`: a line of JSON for every answer. A `SegmentWriter`."""

    def __init__(self, folder: Path, media: Media) -> None:  # noqa: ARG002 - as every writer is made
        self._lines = _Lines(folder / TRACKS)

    def __enter__(self) -> TrackLines:
        return self

    def write(self, answer: FrameResult) -> None:
        """See `SegmentWriter`."""
        self._lines.add(json_line(answer))

    def __exit__(self, *_: object) -> None:
        self._lines.close()


class LabelledPngs:
    """A folder of PNGs, one an answer, named by the frame's number, and their index. A `SegmentWriter`."""

    def __init__(self, folder: Path, kind: PngKind, shown: MapName) -> None:
        self._folder = folder
        self._kind: PngKind = kind
        self._shown: MapName = shown
        self._index = _Lines(folder / INDEX)
        self._index.add(_row(INDEX_COLUMNS))

    def __enter__(self) -> LabelledPngs:
        return self

    def write(self, answer: FrameResult) -> None:
        """See `SegmentWriter`. The index has the picture's line when the picture is there."""
        path = self._folder / png_name(answer.index)
        with writing(path):
            path.write_bytes(encode_png(answer.values(self._shown), self._kind))
        ids = " ".join(f"{slot}:{number}" for slot, number in sorted(answer.ids.items()))
        self._index.add(_row((path.name, answer.index, f"{answer.time_s:.6f}", ids)))

    def __exit__(self, *_: object) -> None:
        self._index.close()


def png_name(index: int) -> str:
    """The file of a frame: at 30 frames a second names have one length for a year."""
    return f"{index:09d}.png"


class OverlayVideo:
    """`overlay.mp4`: live objects over their frames, at the source's times. A `SegmentWriter`."""

    def __init__(self, folder: Path, media: Media) -> None:
        self._style = media.overlay
        self._start_s: float | None = None
        self._mp4 = Mp4Writer(
            folder / OVERLAY,
            video_hw=media.video_hw,
            fps=media.fps,
            time_base_s=media.time_base_s or CLOCK_S,
            pixel_aspect=media.pixel_aspect,
        )

    def __enter__(self) -> OverlayVideo:
        self._mp4.__enter__()
        return self

    def write(self, answer: FrameResult) -> None:
        """See `SegmentWriter`."""
        if self._start_s is None:
            self._start_s = answer.time_s
        self._mp4.write(drawn(answer, self._style), answer.time_s - self._start_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mp4.__exit__(kind, error, trace)


MakeWriter = Callable[[Path, Media], SegmentWriter]
"""Makes a writer into the folder of a segment."""


def _pngs(name: str, kind: PngKind, shown: MapName) -> MakeWriter:
    return lambda folder, _: LabelledPngs(folder / name, kind, shown)


LIVE_WRITERS: Mapping[Variant, Mapping[str, tuple[MakeWriter, ...]]] = {
    "gmos": {
        "mask": (_pngs("mos-i_frame", "palette", "mos-i"), _pngs("tracked_frame", "palette", "tracked")),
        "mp4": (OverlayVideo,),
        "tracks": (TrackLines,),
    },
    "gmos-s": {
        "mask": (_pngs("frame", "palette", "foreground"),),
        "mp4": (OverlayVideo,),
        "prob": (_pngs("prob", "grey", "probability"),),
        "tracks": (TrackLines,),
    },
}
"""What can be written of a stream, by variant and mode; other modes of `--save_mode` need the whole video."""


def tidy(folder: Path) -> int:
    """Keep what is whole of a segment that was cut off: the answers that are in every file of lines, and their PNGs.

    An .mp4 has its index at the end, so one that was cut off goes; so does one that was finished, as nobody can tell.

    Returns:
        The number of these answers.

    Raises:
        OSError: it cannot be done.
    """
    (folder / OVERLAY).unlink(missing_ok=True)
    tracks, indices = folder / TRACKS, sorted(folder.glob(f"*/{INDEX}"))
    ends = {path: _ends_of_lines(path) for path in (tracks, *indices) if path.is_file()}
    # An index begins with its columns; every file with its beginning.
    starts = {path: 1 if path in indices else 0 for path in ends}
    answers = max(min((len(ends[path]) - 1 - starts[path] for path in ends), default=0), 0)
    for path, of_lines in ends.items():
        os.truncate(path, of_lines[min(answers + starts[path], len(of_lines) - 1)])
    for index in indices:
        known = {
            line.partition(b",")[0].decode("ascii", "replace") for line in index.read_bytes().splitlines()
        }
        for picture in index.parent.glob("*.png"):
            if picture.name not in known:
                picture.unlink()
    return answers


def _ends_of_lines(path: Path) -> list[int]:
    """Where whole lines end, in bytes; the beginning is the end of none."""
    ends = [0]
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                ends.append(ends[-1] + len(line))
    return ends


def _row(cells: tuple[Any, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()
