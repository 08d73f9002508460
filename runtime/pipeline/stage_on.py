"""Stage 1 of the propagator, "on": one forward pass that prompts new and reinforces known objects."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..frame_result import CompactMap
from ..tracker import Prompt, Tracker, TrackerStep
from .label_store import LabelStore
from .mask_overlap import iou_matrix, match_rows_to_columns, overlap_counts, pad_square, precision
from .proposals import FrameProposals, Proposals
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


def trusted_iou(proposals: FrameProposals, thresholds: Thresholds) -> np.float32:
    """The summed IoUs of a frame's trusted proposals: above 0, the frame can start the tracks."""
    trusted = proposals.trusted(thresholds)
    return np.float32(proposals.ious[: len(trusted)][trusted].sum(dtype=np.float32))


def best_start(first: Sequence[FrameProposals], thresholds: Thresholds) -> int | None:
    """The best of the first frames, at most `START_FRAMES`, by `trusted_iou`; ties go to the earliest."""
    scores = [trusted_iou(proposals, thresholds) for proposals in first]
    return int(np.argmax(scores)) if max(scores) > 0 else None


def start_frame(
    proposals: Proposals, thresholds: Thresholds, look_back: Callable[[Sequence[int]], None] | None = None
) -> int | None:
    """The frame whose trusted proposals start the tracks, or None if nothing moves.

    The best of the first three by their summed IoUs, else the first that has any; `look_back` proposes those that were
    passed over before it, which may be the first then.
    """
    first = range(min(START_FRAMES, len(proposals)))
    best = best_start([proposals.frame(frame) for frame in first], thresholds)
    if best is not None:
        return best

    def moves(frame: int) -> bool:
        return bool(trusted_iou(proposals.frame(frame), thresholds) > 0)

    found = next((frame for frame in range(START_FRAMES, len(proposals)) if moves(frame)), None)
    if found is None or look_back is None:
        return found
    passed = proposals.passed_over(found)
    if passed:
        look_back(passed)
    return next(frame for frame in (*passed, found) if moves(frame))


def first_masks(proposals: FrameProposals, thresholds: Thresholds) -> list[NDArray[np.bool_]]:
    """The masks (H, W) that start objects on the frame that starts the tracks, at most `max_objects`."""
    numbers = np.flatnonzero(proposals.trusted(thresholds))[: thresholds.max_objects] + 1
    return [proposals.labels == number for number in numbers]


def decide(
    step: TrackerStep,
    proposals: FrameProposals,
    thresholds: Thresholds,
    *,
    has_prompt_near: Callable[[int], bool],
    new_object: Callable[[Collection[int]], int | None],
) -> list[Prompt]:
    """The prompts that the proposals of a frame call for, given the tracker's masks; in files and in streams.

    Args:
        step: the tracker's answer on the frame.
        proposals: of the frame.
        thresholds: of the propagator.
        has_prompt_near: whether the object of that id has a prompt so near that it is not reinforced.
        new_object: the id of a new object, or None if there is no place for it; it is told which objects are matched on
            this frame.
    """
    known = len(step.object_ids)
    count = proposals.count
    trusted = np.zeros(max(count, known), np.bool_)
    trusted[:count] = proposals.trusted(thresholds)
    if not trusted.any():
        return []
    counts = pad_square(*overlap_counts(proposals.labels, step.masks, count))
    intersections, areas, _ = counts
    iou = iou_matrix(*counts)
    best_precision = precision(intersections, areas[:, None]).max(axis=1)
    order = match_rows_to_columns(iou)
    # By row, in the order of the columns they are matched to.
    matched = {
        int(row): step.object_ids[j]
        for j, row in enumerate(order[:known])
        if trusted[row] and iou[row, j] > np.float32(thresholds.match_iou)
    }
    prompts: list[Prompt] = []
    for row in order[trusted[order]]:
        if row in matched:
            object_id = None if has_prompt_near(matched[row]) else matched[row]
        elif best_precision[row] < np.float32(thresholds.new_object_precision):
            object_id = new_object(matched.values())
        else:
            object_id = None
        if object_id is not None:
            prompts.append(Prompt(object_id=object_id, mask=proposals.labels == row + 1))
    return prompts


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
        masks = first_masks(self._proposals.frame(start), thresholds)
        first = [Prompt(object_id=o, mask=mask) for o, mask in enumerate(masks)]
        self._note(start, first)
        self._tracker.add_prompts(start, first)
        frame = 0
        while frame < frames:
            for step in self._tracker.propagate(frame):
                frame, proposals, prompts = self._called_for(step, result)
                answer = step
                if prompts:
                    self._note(frame, prompts)
                    answer = self._tracker.prompt(frame, prompts)
                self._record(answer, proposals, result)
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
    ) -> tuple[int, FrameProposals, list[Prompt]]:
        """The prompts that a step calls for, on which frame, and its proposals.

        The frame may be one that was passed over before it and is proposed now; the tracker goes on from there.
        """
        frame = step.frame
        proposals = self._proposals.frame(frame)
        if not self._proposals.is_known(frame):
            self._passed[frame] = step
            return frame, proposals, []
        prompts = self._decide(step, proposals)
        passed = self._proposals.passed_over(frame) if prompts and self._look_back is not None else ()
        if passed and self._look_back is not None:
            self._look_back(passed)
            for earlier in passed:
                found = self._proposals.frame(earlier)
                before = self._decide(self._passed[earlier], found)
                if before:
                    frame, proposals, prompts = earlier, found, before
                    break
                self._record(self._passed[earlier], found, result)
        self._passed.clear()
        return frame, proposals, prompts

    def _decide(self, step: TrackerStep, proposals: FrameProposals) -> list[Prompt]:
        started = itertools.count(self._objects)

        def new_object(_: Collection[int]) -> int | None:
            object_id = next(started)
            return object_id if object_id < self._thresholds.max_objects else None

        near = partial(self._has_prompt_near, step.frame)
        return decide(step, proposals, self._thresholds, has_prompt_near=near, new_object=new_object)

    def _has_prompt_near(self, frame: int, object_id: int) -> bool:
        gap = self._thresholds.prompt_gap_frames
        return any(abs(frame - prompted) < gap for prompted in self._prompt_frames[object_id])

    def _note(self, frame: int, prompts: list[Prompt]) -> None:
        for prompt in prompts:
            self._prompts.append((frame, prompt.object_id))
            self._prompt_frames[prompt.object_id].append(frame)
            self._objects = max(self._objects, prompt.object_id + 1)

    def _record(self, step: TrackerStep, proposals: FrameProposals, result: TrackedVideo) -> None:
        frame, objects = step.frame, len(step.object_ids)
        motion_map = proposals.motion_map(self._thresholds)
        result.labels[frame] = step.labels
        result.ious[frame, :objects] = step.ious
        result.moving[frame, :objects] = motion_of_objects(step.labels, motion_map, objects, self._thresholds)
        self._on_frame(frame, objects)
