"""Objects through a video as JSON, and as a table: when each is there and moves, and where it is on every frame."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ... import __version__
from ...errors import as_cell
from ..frame_result import FrameResult, ResultName
from ..media import Media
from .collected import CollectedFormat, instances, places
from .rle import encode

FORMAT = 1
"""Of `tracks.json`; a reader refuses what it does not know."""
TRACKS, TABLE = "tracks.json", "tracks.csv"
COLUMNS = ("frame", "time_s", "name", "id", "moving", "iou", "x0", "y0", "x1", "y1", "area")


class TracksFormat(CollectedFormat[dict[str, Any]]):
    """A folder with `tracks.json` and `tracks.csv`. A `formats.ResultFormat`."""

    mode = "tracks"
    folders = places("tracks")
    ending = ""

    def see(self, answer: FrameResult, result: ResultName, media: Media) -> dict[str, Any]:
        """The frame's entry in the JSON."""
        return {
            "index": answer.index,
            "time_s": answer.time_s,
            "name": media.frame_name(answer.index),
            "objects": [
                {
                    "id": one.id,
                    "moving": one.moving,
                    "iou": one.iou,
                    "box": one.box,
                    "area": one.area,
                    "rle": encode(one.mask),
                }
                for one in instances(answer, result)
            ],
        }

    def save(self, path: Path, items: list[dict[str, Any]], result: ResultName, media: Media) -> None:
        """Both files."""
        height, width = media.video_hw
        document = {
            "format": FORMAT,
            "software": f"gmos-deploy {__version__}",
            "result": result,
            "video": {
                "name": media.sequence,
                "source": media.source,
                "height": height,
                "width": width,
                "frames": len(items),
                "fps": media.fps,
                "stride": media.stride,
            },
            "settings": media.settings,
            "objects": _objects(items),
            "frames": items,
        }
        path.mkdir()
        (path / TRACKS).write_bytes(msgspec.json.encode(document) + b"\n")
        (path / TABLE).write_text(_table(items), encoding="utf-8", newline="")

    def is_whole(self, path: Path, frames: int) -> bool:  # noqa: ARG002 - a folder is filed only when it is whole
        """See `formats.ResultFormat`."""
        return (path / TRACKS).is_file() and (path / TABLE).is_file()


def _objects(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every object when it is there, and when it moves."""
    seen: dict[int, list[int]] = {}
    moving: dict[int, list[int]] = {}
    for frame in frames:
        for one in frame["objects"]:
            seen.setdefault(one["id"], []).append(frame["index"])
            if one["moving"]:
                moving.setdefault(one["id"], []).append(frame["index"])
    return [
        {
            "id": number,
            "first_frame": seen[number][0],
            "last_frame": seen[number][-1],
            "frames": len(seen[number]),
            "moving": _intervals(moving.get(number, [])),
        }
        for number in sorted(seen)
    ]


def _intervals(frames: Iterable[int]) -> list[list[int]]:
    """Growing frame numbers as intervals [first, last], both included."""
    intervals: list[list[int]] = []
    for frame in frames:
        if intervals and intervals[-1][1] == frame - 1:
            intervals[-1][1] = frame
        else:
            intervals.append([frame, frame])
    return intervals


def _table(frames: list[dict[str, Any]]) -> str:
    """A line for every object on every frame, in the encoding of RFC 4180."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(COLUMNS)
    for frame in frames:
        for one in frame["objects"]:
            iou = "" if one["iou"] is None else f"{one['iou']:.4f}"
            row = (
                frame["index"],
                f"{frame['time_s']:.6f}",
                as_cell(frame["name"]),
                one["id"],
                int(one["moving"]),
                iou,
            )
            lines.writerow((*row, *one["box"], one["area"]))
    return text.getvalue()
