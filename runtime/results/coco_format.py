"""Objects as COCO annotates them: frame by frame, and as YouTube-VIS does, track by track."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ... import __version__
from ..frame_result import FrameResult, ResultName
from ..media import Media
from .collected import CATEGORY, CollectedFormat, instances, places
from .rle import encode

VIDEO_ID = CATEGORY_ID = 1
"""Files hold one video and one class. COCO counts from 1: its evaluation takes 0 for "none"."""

CATEGORIES = [{"id": CATEGORY_ID, "name": CATEGORY}]


class CocoFormat(CollectedFormat[list[dict[str, Any]]]):
    """A COCO file: the frames as images, an annotation for every object on every frame. A `formats.ResultFormat`."""

    mode = "coco"
    folders = places("coco")

    def see(self, answer: FrameResult, result: ResultName, media: Media) -> list[dict[str, Any]]:  # noqa: ARG002 - all videos alike
        """The frame's annotations; they are numbered at the end."""
        return [
            {
                "image_id": answer.index + 1,
                "video_id": VIDEO_ID,
                "track_id": one.id,
                "category_id": CATEGORY_ID,
                "segmentation": encode(one.mask),
                "area": one.area,
                "bbox": one.xywh,
                "iscrowd": 0,
                "score": one.iou,
                "attributes": {"moving": one.moving},
            }
            for one in instances(answer, result)
        ]

    def save(self, path: Path, items: list[list[dict[str, Any]]], result: ResultName, media: Media) -> None:
        """The file."""
        height, width = media.video_hw
        size = {"height": height, "width": width}
        annotations = [one for frame in items for one in frame]
        document = {
            "info": _info(result),
            "videos": [{"id": VIDEO_ID, "name": media.sequence, "length": len(items), **size}],
            "images": [
                {
                    "id": index + 1,
                    "video_id": VIDEO_ID,
                    "frame_id": index,
                    "file_name": media.frame_name(index),
                    **size,
                }
                for index in range(len(items))
            ],
            "annotations": [{"id": number, **one} for number, one in enumerate(annotations, start=1)],
            "categories": CATEGORIES,
        }
        path.write_bytes(msgspec.json.encode(document) + b"\n")


class YoutubeVisFormat(CollectedFormat[dict[int, dict[str, Any]]]):
    """A YouTube-VIS file: an annotation for every object, with a list over frames. A `formats.ResultFormat`."""

    mode = "ytvis"
    folders = places("ytvis")

    def see(self, answer: FrameResult, result: ResultName, media: Media) -> dict[int, dict[str, Any]]:  # noqa: ARG002 - all videos alike
        """The frame's entry in the lists of every object."""
        return {
            one.id: {"segmentations": encode(one.mask), "bboxes": one.xywh, "areas": one.area}
            for one in instances(answer, result)
        }

    def save(
        self, path: Path, items: list[dict[int, dict[str, Any]]], result: ResultName, media: Media
    ) -> None:
        """The file."""
        height, width = media.video_hw
        size = {"height": height, "width": width, "length": len(items)}
        names = [f"{media.sequence}/{media.frame_name(index)}" for index in range(len(items))]
        document = {
            "info": _info(result),
            "videos": [{"id": VIDEO_ID, "file_names": names, **size}],
            "annotations": [
                {
                    "id": number,
                    "video_id": VIDEO_ID,
                    "category_id": CATEGORY_ID,
                    "iscrowd": 0,
                    **size,
                    **{
                        key: [frame.get(number, {}).get(key) for frame in items]
                        for key in ("segmentations", "bboxes", "areas")
                    },
                }
                for number in sorted({number for frame in items for number in frame})
            ],
            "categories": CATEGORIES,
        }
        path.write_bytes(msgspec.json.encode(document) + b"\n")


def _info(result: ResultName) -> dict[str, str]:
    return {"description": f"{result} of gmos-deploy", "version": __version__}
