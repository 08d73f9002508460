"""The objects of a live answer: as writers draw them, and as a line of JSON."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..frame_result import FrameResult
from ..media import OverlayStyle
from ..results.collected import Instance, instances
from ..results.labelled_overlay import labelled_overlay
from ..results.overlay import overlay
from ..results.rle import encode


def objects_of(answer: FrameResult) -> list[tuple[int, Instance]]:
    """The visible objects with their slots, by id; of GMOS-S the foreground is object 1 in slot 1."""
    if "foreground" in answer.maps:
        return [(one.id, one) for one in instances(answer, "foreground")]
    return [
        (
            one.slot,
            Instance(
                id=one.id,
                moving=one.moving,
                iou=one.iou if math.isfinite(one.iou) else None,
                box=one.box,
                area=one.area,
                mask=one.mask(),
            ),
        )
        for one in answer.objects
    ]


def facts_of(answer: FrameResult) -> dict[str, Any]:
    """What an answer says beside its objects, as JSON values; times in seconds, two of them monotonic."""
    live = answer.live
    return {
        "index": answer.index,
        "time_s": answer.time_s,
        "arrival_s": None if live is None else live.arrival_s,
        "answer_s": None if live is None else live.answer_s,
        "dropped_before": 0 if live is None else live.dropped_before,
        "reset_before": live is not None and live.reset_before,
    }


def json_line(answer: FrameResult) -> bytes:
    """An answer as a line of JSON: its facts, and objects with the fields of `tracks.json` and their slot."""
    entry = facts_of(answer) | {
        "objects": [
            {
                "id": one.id,
                "slot": slot,
                "moving": one.moving,
                "iou": one.iou,
                "box": one.box,
                "area": one.area,
                "rle": encode(one.mask),
            }
            for slot, one in objects_of(answer)
        ]
    }
    return msgspec.json.encode(entry) + b"\n"


def drawn(answer: FrameResult, style: OverlayStyle) -> NDArray[np.uint8]:
    """The answer over its frame, (H, W, 3) uint8: every live object, by id; `published` draws MOS-I alone, by slot.

    Raises:
        ValueError: the answer has no frame.
    """
    if answer.rgb is None:
        raise ValueError("an overlay needs the frame: the run was not asked for frames")
    foreground = "foreground" in answer.maps
    if style == "published":
        return overlay(answer.rgb, answer.mask if foreground else answer.mos_i)
    shown = [one for _, one in objects_of(answer)]
    return labelled_overlay(answer.rgb, shown, "foreground" if foreground else "tracked")
