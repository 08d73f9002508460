"""Counts what a motion-annotation CSV holds, per dataset and split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .label_maps import LABEL_LIMIT
from .time_annotation import MotionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSummary:
    """Counts of one split of a motion-annotation CSV; percentages are 0 to 100, None without frame counts.

    `moving_object_frames` counts each frame of an object once, up to the sequence's end.
    `motion_pct_object_mean` averages each object's moving share; `…_no_union` adds interval lengths
    as they stand, so that overlaps count twice (how the published table was made);
    `motion_pct_pooled` divides the totals.
    """

    rows: int
    rows_with_motion: int
    objects: int
    ann_frames: int | None
    vid_frames: int | None
    max_object_id: int
    intervals: int
    moving_object_frames: int
    object_frames: int | None
    motion_pct_object_mean: float | None
    motion_pct_object_mean_no_union: float | None
    motion_pct_pooled: float | None


def summarise_split(rows: list[MotionRow]) -> SplitSummary:
    """Count what a list of rows holds."""
    moving = object_frames = objects = intervals = largest = 0
    shares: list[float] = []
    raw_shares: list[float] = []
    for row in rows:
        for label, pairs in row.intervals.items():
            frames = row.moving_frames(label, row.annotated_frames)
            objects, intervals, largest = objects + 1, intervals + len(pairs), max(largest, label)
            moving += frames
            if row.annotated_frames is not None:
                object_frames += row.annotated_frames
                shares.append(frames / row.annotated_frames)
                raw_shares.append(sum(end - start + 1 for start, end in pairs) / row.annotated_frames)
    counted = objects > 0 and len(shares) == objects
    return SplitSummary(
        rows=len(rows),
        rows_with_motion=sum(bool(row.intervals) for row in rows),
        objects=objects,
        ann_frames=_total(row.annotated_frames for row in rows),
        vid_frames=_total(row.video_frames for row in rows),
        max_object_id=largest,
        intervals=intervals,
        moving_object_frames=moving,
        object_frames=object_frames if counted else None,
        motion_pct_object_mean=100 * float(np.mean(shares)) if counted else None,
        motion_pct_object_mean_no_union=100 * float(np.mean(raw_shares)) if counted else None,
        motion_pct_pooled=100 * moving / object_frames if counted else None,
    )


def summarise_time_annotation(rows: list[MotionRow]) -> dict[str, SplitSummary]:
    """One summary per `dataset/split`, in the order of the file; `all` where the CSV has no such columns."""
    groups: dict[str, list[MotionRow]] = {}
    for row in rows:
        name = "/".join(part for part in (row.dataset, row.split) if part) or "all"
        groups.setdefault(name, []).append(row)
    return {name: summarise_split(group) for name, group in groups.items()}


def time_annotation_notes(rows: list[MotionRow]) -> dict[str, int]:
    """What is allowed in the CSV but worth knowing, as counts by note code."""
    notes = dict.fromkeys(
        ("rows_without_motion", "unsorted_object_ids", "overlapping_intervals", "touching_intervals"), 0
    )
    notes |= {"intervals_past_end": 0, "object_ids_above_limit": 0}
    for row in rows:
        notes["rows_without_motion"] += not row.intervals
        notes["unsorted_object_ids"] += row.unsorted_ids
        for label, pairs in row.intervals.items():
            ordered = sorted(pairs)
            steps = list(pairwise(ordered))
            notes["overlapping_intervals"] += any(after[0] <= before[1] for before, after in steps)
            notes["touching_intervals"] += any(after[0] == before[1] + 1 for before, after in steps)
            notes["object_ids_above_limit"] += label > LABEL_LIMIT
            if row.annotated_frames is not None:
                notes["intervals_past_end"] += sum(end >= row.annotated_frames for _, end in pairs)
    return {code: count for code, count in notes.items() if count}


def _total(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return sum(count for count in known if count is not None) if None not in known else None
