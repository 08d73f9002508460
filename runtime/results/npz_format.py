"""All label maps of a video and its objects as arrays, in one file that `numpy.load` reads."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..frame_result import CompactMap, FrameResult, ResultName
from ..media import Media
from .collected import CollectedFormat, Instance, instances, places

Seen = tuple[float, CompactMap, list[dict[str, Any]]]
"""Of a frame its time in seconds, its label map, and its objects."""

COMPRESSION_LEVEL = 1
"""zlib's fastest, as for label maps anywhere here."""


class NpzFormat(CollectedFormat[Seen]):
    """Arrays by name: see docs/results.md. A `formats.ResultFormat`."""

    mode = "npz"
    folders = places("npz")
    ending = ".npz"

    def see(self, answer: FrameResult, result: ResultName, media: Media) -> Seen:  # noqa: ARG002 - all videos alike
        """The map packed."""
        source = answer.maps[result]
        packed = source if isinstance(source, CompactMap) else CompactMap.of(source)
        return answer.time_s, packed, [_values(one) for one in instances(answer, result)]

    def save(self, path: Path, items: list[Seen], result: ResultName, media: Media) -> None:  # noqa: ARG002 - all results alike
        """The file; label maps are unpacked one after the other."""
        ids = sorted({one["ids"] for _, _, objects in items for one in objects})
        column = {number: place for place, number in enumerate(ids)}
        shape = (len(items), len(ids))
        tables: dict[str, NDArray[Any]] = {
            "visible": np.zeros(shape, np.bool_),
            "moving": np.zeros(shape, np.bool_),
            "ious": np.full(shape, np.nan, np.float32),
            "boxes": np.zeros((*shape, 4), np.int32),
            "areas": np.zeros(shape, np.int64),
        }
        for frame, (_, _, objects) in enumerate(items):
            for one in objects:
                for name, table in tables.items():
                    table[frame, column[one["ids"]]] = one[name]
        arrays: dict[str, NDArray[Any]] = {
            "times_s": np.array([time_s for time_s, _, _ in items], np.float64),
            "ids": np.array(ids, np.uint8),
            **tables,
        }
        maps = (np.ascontiguousarray(packed.unpack()) for _, packed, _ in items)
        with zipfile.ZipFile(
            path, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL, allowZip64=True
        ) as file:
            _add(file, "labels", maps, (len(items), *media.video_hw), np.dtype(np.uint8))
            for name, array in arrays.items():
                _add(file, name, [array], array.shape, array.dtype)


def _values(one: Instance) -> dict[str, Any]:
    iou = np.nan if one.iou is None else one.iou
    return {
        "ids": one.id,
        "visible": True,
        "moving": one.moving,
        "ious": iou,
        "boxes": one.box,
        "areas": one.area,
    }


def _add(
    file: zipfile.ZipFile,
    name: str,
    parts: Iterable[NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> None:
    """An array in parts along its first axis. Members have no date: the same results are the same bytes."""
    member = zipfile.ZipInfo(f"{name}.npy")
    member.compress_type = zipfile.ZIP_DEFLATED
    with file.open(member, "w", force_zip64=True) as stream:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(part.tobytes())
