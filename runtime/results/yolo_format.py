"""Objects as YOLO segmentation labels: a text file a frame, a polygon a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from ...errors import GmosError
from ..frame_result import FrameResult, ResultName
from ..media import Media
from .collected import CATEGORY, CollectedFormat, Collector, instances, places
from .polygons import polygon

LABELS, DATA = "labels", "data.yaml"

INSIDE_PX = 0.25
"""Added to the number of a pixel: readers of labels round or cut fractions off, and both must give that pixel."""


class YoloFormat(CollectedFormat[tuple[str, str]]):
    """A folder with `data.yaml` and a file a frame in `labels`. A `formats.ResultFormat`."""

    mode = "yolo"
    folders = places("yolo")
    ending = ""

    @contextmanager
    def writer(self, path: Path, result: ResultName, media: Media) -> Iterator[Collector[tuple[str, str]]]:
        """See `formats.ResultFormat`.

        Raises:
            GmosError: also for frames whose names differ in their endings only.
        """
        twice = [stem for stem, count in Counter(map(_stem, media.frame_names)).items() if count > 1]
        if twice:
            raise GmosError(
                f"{media.source} has {twice[0]!r} with several endings, and YOLO's labels go by the name without it; "
                f"rename the frames or leave yolo out of --save-mode"
            )
        with super().writer(path, result, media) as frames:
            yield frames

    def see(self, answer: FrameResult, result: ResultName, media: Media) -> tuple[str, str]:
        """Name and text of the frame's file."""
        height, width = media.video_hw
        lines = []
        for one in instances(answer, result):
            points = (polygon(one.mask) + INSIDE_PX) / (width, height)
            lines.append(" ".join(["0", *(f"{value:.6f}" for value in points.ravel().tolist())]) + "\n")
        return f"{_stem(media.frame_name(answer.index))}.txt", "".join(lines)

    def save(self, path: Path, items: list[tuple[str, str]], result: ResultName, media: Media) -> None:  # noqa: ARG002 - all results alike
        """All files."""
        (path / LABELS).mkdir(parents=True)
        for name, text in items:
            (path / LABELS / name).write_text(text, encoding="ascii")
        # JSON is YAML.
        (path / DATA).write_text(f"names: {json.dumps([CATEGORY])}\n", encoding="ascii")

    def is_whole(self, path: Path, frames: int) -> bool:
        """See `formats.ResultFormat`."""
        return (path / DATA).is_file() and sum(1 for _ in (path / LABELS).glob("*.txt")) == frames


def _stem(name: str) -> str:
    return PurePath(name).stem
