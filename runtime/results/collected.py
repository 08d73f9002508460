"""What the formats of objects share: what they keep of frames as these come, and the end, when they write it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..contract import Variant
from ..files.atomic_file import writing
from ..frame_result import FrameResult, ResultName, bounding_box
from ..media import Media

Item = TypeVar("Item")

CATEGORY = "object"
"""The one class of all objects: GMOS finds what moves, not what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One object of one result on one frame.

    `id` is its label in the result's PNGs; GMOS-S's foreground is object 1. `moving` as in `ObjectResult`, always of
    the foreground. `iou` is the mask decoder's own estimate, None where it gave none. `box` (x0, y0, x1, y1) in
    pixels, x1 and y1 excluded; `area` in pixels; `mask` (H, W) bool.
    """

    id: int
    moving: bool
    iou: float | None
    box: tuple[int, int, int, int]
    area: int
    mask: NDArray[np.bool_] = field(repr=False)

    @property
    def xywh(self) -> list[int]:
        """The box as COCO has it: left, top, width, height in pixels."""
        x0, y0, x1, y1 = self.box
        return [x0, y0, x1 - x0, y1 - y0]


def instances(answer: FrameResult, result: ResultName) -> list[Instance]:
    """The objects of a result that are visible on a frame, by id."""
    labels = answer.values(result)
    counts = np.bincount(labels.ravel(), minlength=2)
    moving = (
        None if result == "foreground" else np.bincount(answer.values("mos-i").ravel(), minlength=256) > 0
    )
    found = []
    for label in (np.flatnonzero(counts[1:]) + 1).tolist():
        mask = labels == label
        found.append(
            Instance(
                id=label,
                moving=moving is None or bool(moving[label]),
                iou=_known(answer.ious[result][label - 1]) if result in answer.ious else None,
                box=bounding_box(mask),
                area=int(counts[label]),
                mask=mask,
            )
        )
    return found


def _known(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None


def places(name: str) -> Mapping[Variant, Mapping[ResultName, str]]:
    """The folders of a format that has every result."""
    return {"gmos": {"mos-i": f"mos-i_{name}", "mos": f"mos_{name}"}, "gmos-s": {"foreground": name}}


class Collector(Generic[Item]):
    """Keeps what a format wants to know of every frame. A `formats.FrameWriter`."""

    def __init__(self, see: Callable[[FrameResult], Item]) -> None:
        self._see = see
        self.items: list[Item] = []

    @property
    def frames_written(self) -> int:
        """See `formats.FrameWriter`."""
        return len(self.items)

    def write(self, answer: FrameResult) -> None:
        """See `formats.FrameWriter`."""
        self.items.append(self._see(answer))


class CollectedFormat(ABC, Generic[Item]):
    """A format that can be written only when all frames are known. A `formats.ResultFormat`."""

    mode: str
    folders: Mapping[Variant, Mapping[ResultName, str]]
    ending: str = ".json"
    needs_rgb: bool = False

    @abstractmethod
    def see(self, answer: FrameResult, result: ResultName, media: Media) -> Item:
        """What of a frame is kept to the end: kilobytes, not the frame."""

    @abstractmethod
    def save(self, path: Path, items: list[Item], result: ResultName, media: Media) -> None:
        """Write what was kept of all frames; the folder around `path` is there."""

    @contextmanager
    def writer(self, path: Path, result: ResultName, media: Media) -> Iterator[Collector[Item]]:
        """See `formats.ResultFormat`."""
        collector = Collector(lambda answer: self.see(answer, result, media))
        yield collector
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.save(path, collector.items, result, media)

    def is_whole(self, path: Path, frames: int) -> bool:  # noqa: ARG002 - a file is filed only when it is whole
        """See `formats.ResultFormat`."""
        return path.is_file()
