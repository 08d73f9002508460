"""MOS-I of a stream: stage "on" on the frames that have come, with objects that come and go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from ..frame_result import MapName
from ..label_lookup import look_up
from ..pipeline.finite_check import FiniteCheck
from ..pipeline.proposals import FrameProposals, number_frame
from ..pipeline.stage_on import (
    START_FRAMES,
    best_start,
    decide,
    first_masks,
    motion_of_objects,
    trusted_iou,
)
from ..pipeline.thresholds import Thresholds
from ..tracker import FrameFeatures, LiveTracker, Prompt, TrackerStep
from .incoming import LiveFrame
from .slots import LiveObject, ObjectTable


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFrame:
    """A frame as the proposer sees it.

    `labels` (H, W) uint8, 0 or 1 + slot, of which it has those of `won` (256,) bool; `motion_logits` and `ious` (K,) by
    slot; `features` s0, s1 and f.
    """

    frame: LiveFrame
    labels: NDArray[np.uint8]
    won: NDArray[np.bool_]
    motion_logits: NDArray[np.float32]
    ious: NDArray[np.float32]
    features: Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageAnswer:
    """What the stage says of a frame: maps (H, W) uint8 of 0 or the slot, IoUs (slots,) by slot - 1, ids by slot."""

    frame: LiveFrame
    maps: Mapping[MapName, NDArray[np.uint8]]
    ious: Mapping[MapName, NDArray[np.float32]]
    ids: Mapping[int, int]


class LiveFeatures:
    """Encoder features of the few frames that the tracker may still ask for."""

    def __init__(self) -> None:
        self._frames: dict[int, Mapping[str, Array]] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: int, features: Mapping[str, Array]) -> None:
        """Keep those of a frame."""
        self._frames[frame] = features

    def get(self, frame: int) -> Mapping[str, Array]:
        """See `runtime.tracker.FrameFeatures`."""
        return self._frames[frame]

    def forget(self, before: int) -> None:
        """Drop those of frames before this one."""
        for frame in [t for t in self._frames if t < before]:
            del self._frames[frame]


class StageLive:
    """Tracks one sequence after another; ids go on from one to the next.

    The first frames wait for one another, as the best of them starts the tracks; later ones are answered at once.
    Where a sequence starts later, or again after all its objects are gone, the frame that starts it has not been
    waited for. Frames of the tracker, and the gap between prompts, count kept frames.

    Args:
        make_tracker: makes the tracker of all sequences, given where it finds features.
        video_hw: height and width in pixels.
        thresholds: of the propagator.
        retire_after_s: see `ObjectTable`.
        check: looks at the tracker's IoUs.
    """

    def __init__(
        self,
        make_tracker: Callable[[FrameFeatures], LiveTracker],
        *,
        video_hw: tuple[int, int],
        thresholds: Thresholds,
        retire_after_s: float,
        check: FiniteCheck,
    ) -> None:
        self.features = LiveFeatures()
        self.objects = ObjectTable(thresholds.max_objects, retire_after_s)
        self._tracker = make_tracker(self.features)
        self._video_hw = video_hw
        self._thresholds = thresholds
        self._check = check
        self._steps: Iterator[TrackerStep] | None = None
        self._begin_anew()

    def push(self, head: HeadFrame) -> list[StageAnswer]:
        """Take the next frame; the answers that it completes."""
        self._slots_seen |= head.won
        self.features.put(self._next, head.features)
        self._next += 1
        if self._first is None:
            return [self._answered(self._next - 1, head)]
        self._first.append(head)
        return self._begin() if len(self._first) == START_FRAMES else []

    def end(self) -> list[StageAnswer]:
        """End the sequence: the answers of frames that still wait for others; all objects are gone."""
        answers = self._begin() if self._first else []
        self.close()
        return answers

    def close(self) -> None:
        """Drop everything but the last id."""
        self._steps = None
        self._tracker.reset()
        self.objects.clear()
        self.features.forget(self._next)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._next = 0
        self._slots_seen = np.zeros(256, np.bool_)
        self._first: list[HeadFrame] | None = []

    def _begin(self) -> list[StageAnswer]:
        """Start the tracks on the best of the first frames, if one of them can, and answer all of them."""
        heads, self._first = self._first or [], None
        start = best_start([self._numbered(head) for head in heads], self._thresholds)
        if start is not None:
            self._start(start, heads[start])
        return [self._answered(frame, head) for frame, head in enumerate(heads)]

    def _answered(self, frame: int, head: HeadFrame) -> StageAnswer:
        """A frame that waits for no other one: it is tracked, or starts the tracks if there are none."""
        if not self.objects:
            if not trusted_iou(self._numbered(head), self._thresholds) > 0:
                return self._untracked(frame, head)
            self._start(frame, head)
        return self._tracked(frame, head)

    def _start(self, frame: int, head: HeadFrame) -> None:
        """Start the tracks on a frame; of the first ones it may come after frames that are tracked."""
        prompts = [
            Prompt(object_id=self._new_object(frame, head.frame.time_s).id, mask=mask)
            for mask in first_masks(self._numbered(head), self._thresholds)
        ]
        self._tracker.add_prompts(frame, prompts)
        self._steps = None

    def _tracked(self, frame: int, head: HeadFrame) -> StageAnswer:
        """Track every object on a frame, prompt what its proposals call for, and answer."""
        thresholds, proposals, time_s = self._thresholds, self._numbered(head), head.frame.time_s
        if self._steps is None:
            self._steps = self._tracker.propagate(frame)
        step = self._checked(head, next(self._steps))
        motion_map = proposals.motion_map(thresholds)
        note_motion = partial(self._note_motion, step, motion_map, time_s)
        gone: list[int] = []
        prompts = decide(
            step,
            proposals,
            thresholds,
            has_prompt_near=partial(self._has_prompt_near, frame),
            new_object=partial(self._place, frame, time_s, gone, note_motion),
        )
        if prompts:
            self._tracker.forget(gone)
            for prompt in prompts:
                self._note_prompt(prompt.object_id, frame)
            step = self._checked(head, self._tracker.prompt(frame, prompts))
            self._steps = None
        moving = self._note_motion(step, motion_map, time_s)
        for object_id, mask in zip(step.object_ids, step.masks, strict=True):
            if mask.any():
                self.objects[object_id].was_seen(time_s)
        answer = self._answer(head.frame, step, moving)
        self._retire(time_s)
        self.features.forget(frame if prompts and self.objects else frame + 1)
        return answer

    def _untracked(self, frame: int, head: HeadFrame) -> StageAnswer:
        self.features.forget(frame + 1)
        nothing = np.zeros(self._video_hw, np.uint8)
        ious = np.zeros(self._thresholds.max_objects, np.float32)
        return StageAnswer(
            frame=head.frame,
            maps={"mos-i": nothing, "tracked": nothing},
            ious={"mos-i": ious, "tracked": ious},
            ids={},
        )

    def _numbered(self, head: HeadFrame) -> FrameProposals:
        return number_frame(head.labels, head.motion_logits, head.ious, won=head.won, seen=self._slots_seen)

    def _checked(self, head: HeadFrame, step: TrackerStep) -> TrackerStep:
        self._check.check_step(head.frame.index, step)
        return step

    def _note_motion(
        self, step: TrackerStep, motion_map: NDArray[np.bool_], time_s: float
    ) -> NDArray[np.bool_]:
        """Which objects of a step move, (O,) bool."""
        moving = motion_of_objects(step.labels, motion_map, len(step.object_ids), self._thresholds)
        for position in np.flatnonzero(moving):
            self.objects[step.object_ids[position]].has_moved(time_s)
        return moving

    def _new_object(self, frame: int, time_s: float) -> LiveObject:
        started = self.objects.start(time_s)
        if started is None:
            raise RuntimeError("no free slot: whoever starts an object looks for one first")
        started.prompts.append(frame)
        return started

    def _place(
        self,
        frame: int,
        time_s: float,
        gone: list[int],
        note_motion: Callable[[], object],
        matched: Collection[int],
    ) -> int | None:
        """The id of a new object, which takes the place of one that has been still for long if it has to."""
        if len(self.objects) == self._thresholds.max_objects:
            # Who moves on this very frame is not still.
            note_motion()
            still = self.objects.longest_still(time_s, but=matched)
            if still is None:
                return None
            gone.append(still)
            self.objects.remove([still])
        return self._new_object(frame, time_s).id

    def _has_prompt_near(self, frame: int, object_id: int) -> bool:
        gap = self._thresholds.prompt_gap_frames
        return any(abs(frame - prompted) < gap for prompted in self.objects[object_id].prompts)

    def _note_prompt(self, object_id: int, frame: int) -> None:
        gap, known = self._thresholds.prompt_gap_frames, self.objects[object_id]
        known.prompts = [t for t in known.prompts if frame - t < gap and t != frame] + [frame]

    def _retire(self, time_s: float) -> None:
        """Let objects go that nothing has been seen of for long."""
        gone = self.objects.unseen(time_s)
        self._tracker.forget(gone)
        self.objects.remove(gone)
        if not self.objects:
            self._steps = None

    def _answer(self, frame: LiveFrame, step: TrackerStep, moving: NDArray[np.bool_]) -> StageAnswer:
        slots = np.array([self.objects[object_id].slot for object_id in step.object_ids], np.uint8)
        tables = np.zeros((2, 256), np.uint8)
        positions = np.arange(1, len(slots) + 1)
        tables[0, positions] = slots
        tables[1, positions[moving]] = slots[moving]
        ious = np.zeros(self._thresholds.max_objects, np.float32)
        ious[slots - 1] = step.ious
        return StageAnswer(
            frame=frame,
            maps={
                "mos-i": look_up(step.labels, tables[1]),
                "tracked": look_up(step.labels, tables[0]),
            },
            ious={"mos-i": ious, "tracked": ious},
            ids=self.objects.ids_by_slot(),
        )
