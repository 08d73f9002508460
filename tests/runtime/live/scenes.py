"""Scenes of proposals, and both ways to track them: as a file, and as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.stage_live import HeadFrame, StageAnswer, StageLive
from gmos_deploy.runtime.pipeline.finite_check import FiniteCheck
from gmos_deploy.runtime.pipeline.proposals import ProposalCollector, slots_won
from gmos_deploy.runtime.pipeline.stage_on import StageOn, TrackedVideo
from gmos_deploy.runtime.pipeline.thresholds import PUBLISHED, Thresholds

from ..scripted_tracker import ScriptedTracker

VIDEO_HW = (48, 64)
RGB = np.zeros((*VIDEO_HW, 3), np.uint8)
SLOTS = 20
AT_REST = np.zeros((1, 2), np.int64)

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""


def head_frame(
    index: int, labels: NDArray[np.uint8], motion_logits: NDArray[np.float32], ious: NDArray[np.float32]
) -> HeadFrame:
    """A frame as the proposer sees it, a second after the one before."""
    return HeadFrame(
        frame=LiveFrame(index=index, time_s=float(index), arrival_s=0, rgb=RGB),
        labels=labels,
        won=slots_won(labels),
        motion_logits=motion_logits,
        ious=ious,
        features={},
    )


@dataclass(frozen=True)
class Seen:
    """A proposal of a slot on a frame; without a box it wins no pixel."""

    box: Box | None
    moves: bool = True
    iou: float = 0.9


@dataclass
class Scene:
    """Frames of proposals by slot, and how the objects of the scripted tracker move, (O, 2) pixels a frame."""

    frames: list[dict[int, Seen]]
    velocities: NDArray[np.int64] = field(default_factory=lambda: AT_REST)

    def heads(self) -> list[HeadFrame]:
        """The frames as the proposer sees them, a second apart."""
        return [self._head(index, seen) for index, seen in enumerate(self.frames)]

    def _head(self, index: int, seen: dict[int, Seen]) -> HeadFrame:
        labels = np.zeros(VIDEO_HW, np.uint8)
        motion_logits, ious = np.full(SLOTS, -4, np.float32), np.zeros(SLOTS, np.float32)
        for slot, one in seen.items():
            motion_logits[slot], ious[slot] = 4 if one.moves else -4, one.iou
            if one.box is not None:
                top, left, height, width = one.box
                labels[top : top + height, left : left + width] = slot + 1
        return head_frame(index, labels, motion_logits, ious)


def as_file(
    heads: Sequence[HeadFrame], velocities: NDArray[np.int64], thresholds: Thresholds = PUBLISHED
) -> tuple[TrackedVideo, ScriptedTracker]:
    """Stage "on" of a file."""
    collector = ProposalCollector(VIDEO_HW)
    for head in heads:
        collector.add(head.labels, head.motion_logits, head.ious)
    tracker = ScriptedTracker(len(heads), VIDEO_HW, velocities)
    return StageOn(collector.finish(), tracker, thresholds, lambda *_: None).run(), tracker


class Stream:
    """Stage "on" of a stream; `tracker` is the one that it drives."""

    def __init__(
        self,
        velocities: NDArray[np.int64] = AT_REST,
        thresholds: Thresholds = PUBLISHED,
        *,
        retire_after_s: float = 0,
    ) -> None:
        self.tracker = ScriptedTracker(None, VIDEO_HW, velocities, first_id=1)
        self.stage = StageLive(
            lambda _: self.tracker,
            video_hw=VIDEO_HW,
            thresholds=thresholds,
            retire_after_s=retire_after_s,
            check=FiniteCheck(video="stream", allowed=False, found={}),
        )

    def run(self, heads: Sequence[HeadFrame]) -> list[StageAnswer]:
        """All answers of one sequence."""
        answers = [answer for head in heads for answer in self.stage.push(head)]
        return answers + self.stage.end()


def same(answer: StageAnswer, tracked: TrackedVideo, frame: int) -> bool:
    """Whether a stream answers on a frame what the file does, byte for byte."""
    return (
        np.array_equal(answer.maps["tracked"], tracked.labels[frame])
        and np.array_equal(answer.maps["mos-i"], tracked.mos_i(frame).unpack())
        and np.array_equal(answer.ious["tracked"], tracked.ious[frame])
    )
