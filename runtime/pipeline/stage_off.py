"""Stage 2 of the propagator, "off": prompted from the best frames of stage 1, in both directions."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ..tracker import Prompt, Tracker, TrackerStep
from .proposals import Proposals
from .stage_on import OnFrame, TrackedVideo, motion_of_objects
from .thresholds import Thresholds


def stage2_prompts(stage1: TrackedVideo, thresholds: Thresholds) -> list[tuple[int, int]]:
    """The (frame, object) pairs to prompt: per object the best tenth of its frames, ascending.

    Ties in the object IoU go to the earlier frame.
    """
    prompts = []
    for o in range(stage1.objects):
        ious = stage1.ious[:, o]
        keep = math.ceil(thresholds.stage2_share * np.count_nonzero(ious > 0))
        best = np.argsort(-ious, kind="stable")[:keep]
        prompts += [(int(t), o) for t in sorted(best) if ious[t] >= np.float32(thresholds.stage2_iou)]
    return prompts


def resolve_overlaps(
    masks: NDArray[np.bool_], labels: NDArray[np.uint8], priority: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """One label map from overlapping masks: a contested pixel goes to the highest priority.

    `masks` (O, H, W) bool; `labels` (O,) uint8, the label of each mask; `priority` (O,), ties go to
    the smaller position. Returns (H, W) uint8.
    """
    resolved = np.zeros(masks.shape[1:], np.uint8)
    # Painted from the weakest to the strongest; a stable sort of the reversed order puts the smaller
    # position last among equals.
    positions = np.arange(len(masks))[::-1]
    for o in positions[np.argsort(priority[::-1], kind="stable")]:
        resolved[masks[o]] = labels[o]
    return resolved


class StageOff:
    """The pass over one video; made for one run and thrown away."""

    def __init__(
        self,
        proposals: Proposals,
        stage1: TrackedVideo,
        tracker: Tracker,
        thresholds: Thresholds,
        on_frame: OnFrame,
    ) -> None:
        self._proposals = proposals
        self._stage1 = stage1
        self._tracker = tracker
        self._thresholds = thresholds
        self._on_frame = on_frame

    def run(self) -> TrackedVideo:
        """Track forward from the best frame, then backward; drop objects that hardly move.

        Labels keep the objects' stage-1 numbers: they are not compacted.
        """
        stage1, frames = self._stage1, len(self._proposals)
        result = TrackedVideo.empty(frames, self._proposals.maps.video_hw, self._thresholds)
        prompts = stage2_prompts(stage1, self._thresholds)
        if not prompts:
            return result
        self._tracker.reset()
        for frame, o in prompts:
            mask = stage1.labels[frame] == o + 1
            self._tracker.add_prompts(frame, [Prompt(object_id=o, mask=mask)])
        counts = Counter(o for _, o in prompts)
        start = int(stage1.ious.sum(axis=1, dtype=np.float32).argmax())
        for step in self._tracker.propagate(start, unprompted=True):
            self._record(step, counts, result)
        if start > 0:
            for step in self._tracker.propagate(start, reverse=True, unprompted=True):
                self._record(step, counts, result)
        result.moving[:] = result.moving[self._proposals.nearest_known()]
        return self._without_still_objects(result, prompts)

    def _record(self, step: TrackerStep, counts: Counter[int], result: TrackedVideo) -> None:
        frame, ids = step.frame, np.array(step.object_ids)
        priority = np.array([counts[o] for o in step.object_ids])
        # Ties go to the smaller object, not to the one that was prompted first.
        order = np.argsort(ids)
        labels = resolve_overlaps(step.masks[order], (ids[order] + 1).astype(np.uint8), priority[order])
        motion_map = self._proposals.frame(frame).motion_map(self._thresholds)
        result.labels[frame] = labels
        result.ious[frame, ids] = step.ious
        result.moving[frame] = motion_of_objects(
            labels, motion_map, self._thresholds.max_objects, self._thresholds
        )
        self._on_frame(frame, len(ids))

    def _without_still_objects(self, result: TrackedVideo, prompts: list[tuple[int, int]]) -> TrackedVideo:
        share = result.moving.mean(axis=0, dtype=np.float32)
        kept = sorted(
            o for o in {o for _, o in prompts} if share[o] >= np.float32(self._thresholds.moving_frames)
        )
        table = np.zeros(256, np.uint8)
        table[np.array(kept, np.intp) + 1] = np.array(kept, np.uint8) + 1
        return TrackedVideo(
            labels=result.labels.remap(table),
            moving=result.moving,
            ious=result.ious,
            objects=len(kept),
            prompts=tuple(prompts),
        )
