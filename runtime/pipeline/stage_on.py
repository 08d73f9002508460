"""Stage 1 of the propagator, "on": one forward pass that prompts new and reinforces known objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..frame_result import CompactMap
from ..tracker import Prompt, Tracker, TrackerStep
from .label_store import LabelStore
from .mask_overlap import iou_matrix, match_rows_to_columns, overlap_counts, pad_square, precision
from .proposals import Proposals
from .thresholds import Thresholds

START_FRAMES = 3
"""Frames at the beginning of the video among which the best one starts the tracks."""

OnFrame = Callable[[int, int], None]
"""Called after each tracked frame with the frame index and the number of objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedVideo:
    """What a stage leaves for n frames and at most `max_objects` objects (axis O).

    `labels` n maps of 0 or object + 1, whether the object moves or not; `moving` (n, O) bool;
    `ious` (n, O) float32, 0 where the object was not tracked; `objects` how many there are;
    `prompts` (frame, object) in the order they were made.
    """

    labels: LabelStore
    moving: NDArray[np.bool_]
    ious: NDArray[np.float32]
    objects: int
    prompts: tuple[tuple[int, int], ...]

    @classmethod
    def empty(cls, frames: int, video_hw: tuple[int, int], thresholds: Thresholds) -> TrackedVideo:
        """The result of a video in which nothing moves."""
        shape = (frames, thresholds.max_objects)
        return cls(
            labels=LabelStore(frames, video_hw),
            moving=np.zeros(shape, np.bool_),
            ious=np.zeros(shape, np.float32),
            objects=0,
            prompts=(),
        )

    def mos_i(self, frame: int) -> CompactMap:
        """The MOS-I map of a frame: an object only where and when it moves."""
        table = np.zeros(256, np.uint8)
        objects = np.flatnonzero(self.moving[frame]) + 1
        table[objects] = objects
        return replace(self.labels.compact(frame), table=table)


def start_frame(
    proposals: Proposals, thresholds: Thresholds, look_back: Callable[[Sequence[int]], None] | None = None
) -> int | None:
    """The frame whose trusted proposals start the tracks, or None if nothing moves.

    The best of the first three by their summed IoUs, else the first that has any; `look_back` proposes those that were
    passed over before it, which may be the first then.
    """

    def score(frame: int) -> np.float32:
        count = int(proposals.maps[frame].max())
        trusted = proposals.trusted(frame, count, thresholds)
        return np.float32(proposals.ious[frame, :count][trusted].sum(dtype=np.float32))

    first = [score(frame) for frame in range(min(START_FRAMES, len(proposals)))]
    if max(first) > 0:
        return int(np.argmax(first))
    found = next((frame for frame in range(START_FRAMES, len(proposals)) if score(frame) > 0), None)
    if found is None or look_back is None:
        return found
    passed = proposals.passed_over(found)
    if passed:
        look_back(passed)
    return next(frame for frame in (*passed, found) if score(frame) > 0)


def motion_of_objects(
    labels: NDArray[np.uint8], motion_map: NDArray[np.bool_], objects: int, thresholds: Thresholds
) -> NDArray[np.bool_]:
    """Which of the labels 1..objects lie on moving pixels for more than half of their area; (O,) bool."""
    areas = np.bincount(labels.ravel(), minlength=256)[1 : objects + 1]
    covered = np.bincount(labels[motion_map], minlength=256)[1 : objects + 1]
    return precision(covered, areas) > np.float32(thresholds.motion_transfer_precision)


class StageOn:
    """The pass over one video; made for one run and thrown away.

    Where frames were passed over by the proposer, `look_back` proposes those before a frame that calls for a prompt,
    and the earliest of them that calls for one gets it. The others move as on the nearest frame that was proposed.
    """

    def __init__(
        self,
        proposals: Proposals,
        tracker: Tracker,
        thresholds: Thresholds,
        on_frame: OnFrame,
        look_back: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        self._proposals = proposals
        self._tracker = tracker
        self._thresholds = thresholds
        self._on_frame = on_frame
        self._look_back = look_back
        self._passed: dict[int, TrackerStep] = {}
        self._prompts: list[tuple[int, int]] = []
        self._prompt_frames: defaultdict[int, list[int]] = defaultdict(list)
        self._objects = 0

    def run(self) -> TrackedVideo:
        """Track every frame once, from the first to the last."""
        frames, thresholds = len(self._proposals), self._thresholds
        result = TrackedVideo.empty(frames, self._proposals.maps.video_hw, thresholds)
        start = start_frame(self._proposals, thresholds, self._look_back)
        if start is None:
            return result
        first = self._first_prompts(start)
        self._note(start, first)
        self._tracker.add_prompts(start, first)
        frame = 0
        while frame < frames:
            for step in self._tracker.propagate(frame):
                frame, proposal_map, prompts = self._called_for(step, result)
                answer = step
                if prompts:
                    self._note(frame, prompts)
                    answer = self._tracker.prompt(frame, prompts)
                self._record(answer, proposal_map, result)
                if prompts:
                    break
            frame += 1
        result.moving[:] = result.moving[self._proposals.nearest_known()]
        return TrackedVideo(
            labels=result.labels,
            moving=result.moving,
            ious=result.ious,
            objects=self._objects,
            prompts=tuple(self._prompts),
        )

    def _called_for(
        self, step: TrackerStep, result: TrackedVideo
    ) -> tuple[int, NDArray[np.uint8], list[Prompt]]:
        """The prompts that a step calls for, on which frame, and its proposals.

        The frame may be one that was passed over before it and is proposed now; the tracker goes on from there.
        """
        frame = step.frame
        proposal_map = self._proposals.maps[frame]
        if not self._proposals.is_known(frame):
            self._passed[frame] = step
            return frame, proposal_map, []
        prompts = self._decide(step, proposal_map)
        passed = self._proposals.passed_over(frame) if prompts and self._look_back is not None else ()
        if passed and self._look_back is not None:
            self._look_back(passed)
            for earlier in passed:
                found = self._proposals.maps[earlier]
                before = self._decide(self._passed[earlier], found)
                if before:
                    frame, proposal_map, prompts = earlier, found, before
                    break
                self._record(self._passed[earlier], found, result)
        self._passed.clear()
        return frame, proposal_map, prompts

    def _first_prompts(self, frame: int) -> list[Prompt]:
        labels = self._proposals.maps[frame]
        trusted = self._proposals.trusted(frame, int(labels.max()), self._thresholds)
        numbers = np.flatnonzero(trusted)[: self._thresholds.max_objects] + 1
        return [Prompt(object_id=o, mask=labels == number) for o, number in enumerate(numbers)]

    def _decide(self, step: TrackerStep, proposal_map: NDArray[np.uint8]) -> list[Prompt]:
        """The prompts that the proposals of this frame call for, given the tracker's masks."""
        thresholds, known = self._thresholds, len(step.object_ids)
        count = int(proposal_map.max())
        trusted = np.zeros(max(count, known), np.bool_)
        trusted[:count] = self._proposals.trusted(step.frame, count, thresholds)
        if not trusted.any():
            return []
        counts = pad_square(*overlap_counts(proposal_map, step.masks, count))
        intersections, areas, _ = counts
        iou = iou_matrix(*counts)
        best_precision = precision(intersections, areas[:, None]).max(axis=1)
        prompts: list[Prompt] = []
        objects = self._objects
        for j, row in enumerate(match_rows_to_columns(iou)):
            if not trusted[row]:
                continue
            if j < known and iou[row, j] > np.float32(thresholds.match_iou):
                if self._has_prompt_near(j, step.frame):
                    continue
                object_id = j
            elif (
                best_precision[row] < np.float32(thresholds.new_object_precision)
                and objects < thresholds.max_objects
            ):
                object_id, objects = objects, objects + 1
            else:
                continue
            prompts.append(Prompt(object_id=object_id, mask=proposal_map == row + 1))
        return prompts

    def _has_prompt_near(self, object_id: int, frame: int) -> bool:
        gap = self._thresholds.prompt_gap_frames
        return any(abs(frame - prompted) < gap for prompted in self._prompt_frames[object_id])

    def _note(self, frame: int, prompts: list[Prompt]) -> None:
        for prompt in prompts:
            self._prompts.append((frame, prompt.object_id))
            self._prompt_frames[prompt.object_id].append(frame)
            self._objects = max(self._objects, prompt.object_id + 1)

    def _record(self, step: TrackerStep, proposal_map: NDArray[np.uint8], result: TrackedVideo) -> None:
        frame, objects = step.frame, len(step.object_ids)
        motion_map = self._proposals.motion_map(frame, proposal_map, self._thresholds)
        result.labels[frame] = step.labels
        result.ious[frame, :objects] = step.ious
        result.moving[frame, :objects] = motion_of_objects(step.labels, motion_map, objects, self._thresholds)
        self._on_frame(frame, objects)
