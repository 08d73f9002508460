"""A motion-annotation CSV: which object moves in which frames of which sequence; read, checked and counted."""

from __future__ import annotations

import ast
import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import GmosError
from ...runtime.files.regular_file import read_text
from .label_maps import LABEL_LIMIT

SPLIT_OF_DATASET: dict[str, tuple[str, str]] = {
    "davis17-im": ("davis", "test"),
    "ytvos19-im": ("ytvos", "test"),
}
"""The `dataset` and `split` columns of the rows that make up a MOS-I benchmark."""

_SHOWN_PROBLEMS = 3

Interval = tuple[int, int]
"""First and last frame of a movement, both inside it."""

_Record = Mapping[Any, Any]
"""One row as csv.DictReader gives it: text by column, None for missing cells, a list of surplus ones."""


MOST = 10_000_000
"""Frames of a sequence, and its largest label; four days at 30 frames per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionRow:
    """One sequence of the CSV.

    `intervals` maps an object id (1, 2, …) to its inclusive frame intervals, in the order of the
    file. Frame counts, `dataset` and `split` are None where the CSV has no such column. `line` is
    the line of the file that the row ends on.
    """

    line: int
    name: str
    intervals: dict[int, tuple[Interval, ...]]
    annotated_frames: int | None
    video_frames: int | None
    dataset: str | None
    split: str | None
    unsorted_ids: bool

    def moving(self, frames: int) -> npt.NDArray[np.bool_]:
        """Whether each object moves in each of the first `frames` annotated frames.

        Returns:
            bool (frames, 20); column c is object c + 1. Ids above 20 have no column.
        """
        moving = np.zeros((frames, LABEL_LIMIT), dtype=bool)
        for label, intervals in self.intervals.items():
            if label <= LABEL_LIMIT:
                for start, end in intervals:
                    moving[start : end + 1, label - 1] = True
        return moving

    def moving_frames(self, label: int, limit: int | None = None) -> int:
        """Frames that some interval of `label` covers, below `limit` if given."""
        covered: set[int] = set()
        for start, end in self.intervals[label]:
            covered.update(range(start, end + 1 if limit is None else min(end + 1, limit)))
        return len(covered)


def read_time_annotation(path: Path) -> list[MotionRow]:
    """Read every row of a motion-annotation CSV.

    Raises:
        GmosError: missing file or column, or rows that cannot be used; the first few are named
            with their line and sequence.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise GmosError(f"{path}: cannot read the motion-annotation CSV ({error}): check the path") from None
    reader = csv.DictReader(text.splitlines(keepends=True))
    columns = reader.fieldnames or []
    missing = [name for name in ("seq_name", "time_anno") if name not in columns]
    if missing:
        raise GmosError(
            f"{path}: no column {' and '.join(missing)}, found {', '.join(columns) or 'nothing'}:"
            " expected seq_name,time_anno[,ann_frames,vid_frames,dataset,split]"
        )
    rows: list[MotionRow] = []
    problems: list[str] = []
    seen: dict[tuple[str, str | None, str | None], int] = {}
    try:
        for record in reader:
            row = _row_or_problem(record, reader.line_num, seen)
            if isinstance(row, str):
                problems.append(row)
            else:
                rows.append(row)
    except csv.Error as error:
        raise GmosError(f"{path}: line {reader.line_num}: not a CSV ({error}): export it again") from None
    if problems:
        more = f"; {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise GmosError(f"{path}: {'; '.join(problems[:_SHOWN_PROBLEMS])}{more}")
    if not rows:
        raise GmosError(f"{path}: no rows: expected one row per sequence")
    return rows


def select_rows(rows: list[MotionRow], dataset: str, path: Path) -> tuple[list[MotionRow], int]:
    """The rows that a MOS-I dataset is made of, without those where nothing moves.

    A CSV without a `dataset` or `split` column is not narrowed by it.

    Returns:
        The rows, and how many were dropped because their dict is empty.

    Raises:
        GmosError: no row is left.
    """
    wanted = SPLIT_OF_DATASET[dataset]
    chosen = rows
    if any(row.dataset is not None for row in rows):
        chosen = [row for row in chosen if row.dataset == wanted[0]]
    if any(row.split is not None for row in rows):
        chosen = [row for row in chosen if row.split == wanted[1]]
    if not chosen:
        found = sorted({f"{row.dataset}/{row.split}" for row in rows})
        raise GmosError(
            f"{path}: no rows of {'/'.join(wanted)}, found {', '.join(found)}:"
            f" give the CSV that has the rows of {dataset}"
        )
    moving = [row for row in chosen if row.intervals]
    if not moving:
        raise GmosError(f"{path}: no row of {dataset} has any motion: nothing to evaluate")
    return moving, len(chosen) - len(moving)


def _row_or_problem(
    record: _Record, line: int, seen: dict[tuple[str, str | None, str | None], int]
) -> MotionRow | str:
    """The row, or what is wrong with it; `seen` remembers the line of each sequence."""
    try:
        row = _parse_row(record, line)
    except GmosError as problem:
        return str(problem)
    first = seen.setdefault((row.name, row.dataset, row.split), line)
    if first != line:
        return f"line {line} ({row.name}): sequence repeated, first on line {first}"
    return row


def _parse_row(record: _Record, line: int) -> MotionRow:
    name = record.get("seq_name")
    if not isinstance(name, str) or not name.strip():
        raise GmosError(f"line {line}: no seq_name")
    name = name.strip()
    where = f"line {line} ({name})"
    if name in (".", "..") or "/" in name or "\\" in name:
        raise GmosError(f"{where}: seq_name must be one folder name")
    if None in record:
        raise GmosError(f"{where}: more cells than columns; put time_anno in double quotes")
    intervals, unsorted_ids = _parse_intervals(record.get("time_anno"), where)
    return MotionRow(
        line=line,
        name=name,
        intervals=intervals,
        annotated_frames=_parse_count(record, "ann_frames", where),
        video_frames=_parse_count(record, "vid_frames", where),
        dataset=_parse_text(record, "dataset"),
        split=_parse_text(record, "split"),
        unsorted_ids=unsorted_ids,
    )


def _parse_text(record: _Record, column: str) -> str | None:
    value = record.get(column)
    return value.strip() if isinstance(value, str) and value.strip() else None


def _parse_count(record: _Record, column: str, where: str) -> int | None:
    text = _parse_text(record, column)
    if text is None:
        return None
    if (count := _whole(text)) is None:
        raise GmosError(f"{where}: {column} is {text!r:.60}: expected a number of frames, 1 to {MOST}")
    return count


def _whole(text: str) -> int | None:
    """A number from 1 to `MOST`; None where the text is none."""
    count = int(text) if text.isdecimal() and len(text) <= len(str(MOST)) else 0
    return count if 1 <= count <= MOST else None


def _parse_intervals(cell: object, where: str) -> tuple[dict[int, tuple[Interval, ...]], bool]:
    """The object intervals of a cell, ids ascending, and whether the file had them unsorted."""
    if not isinstance(cell, str):
        raise GmosError(f"{where}: no time_anno; write {{}} where nothing moves")
    try:
        literal = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        literal = None
    if not isinstance(literal, dict):
        raise GmosError(f"{where}: time_anno is {cell[:40]!r}: expected {{'object id': [[start, end], …]}}")
    intervals: dict[int, tuple[Interval, ...]] = {}
    for key, value in literal.items():
        label = _parse_label(key, where)
        if label in intervals:
            raise GmosError(f"{where}: object {label} appears twice")
        if not isinstance(value, (list, tuple)) or not value:
            raise GmosError(f"{where}: object {label} has {value!r:.60}: expected [[start, end], …]")
        intervals[label] = tuple(_parse_interval(pair, label, where) for pair in value)
    labels = list(intervals)
    return {label: intervals[label] for label in sorted(labels)}, labels != sorted(labels)


def _parse_label(key: object, where: str) -> int:
    text = key if isinstance(key, str) else str(key) if type(key) is int else ""
    if (label := _whole(text.strip())) is None:
        raise GmosError(f"{where}: object id {key!r:.60}: expected a label, 1 or more")
    return label


def _parse_interval(pair: object, label: int, where: str) -> Interval:
    if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(type(end) is int for end in pair):
        start, end = pair
        if 0 <= start <= end <= MOST:
            return start, end
    raise GmosError(
        f"{where}: object {label} has the interval {pair!r:.60}: expected [start, end], 0 <= start <= end <= {MOST}"
    )


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


def time_annotation_notes(rows: list[MotionRow]) -> Counter[str]:
    """What is allowed in the CSV but worth knowing, as counts by note code."""
    notes: Counter[str] = Counter()
    for row in rows:
        notes["rows_without_motion"] += not row.intervals
        notes["unsorted_object_ids"] += row.unsorted_ids
        for label, pairs in row.intervals.items():
            steps = list(pairwise(sorted(pairs)))
            notes["overlapping_intervals"] += any(after[0] <= before[1] for before, after in steps)
            notes["touching_intervals"] += any(after[0] == before[1] + 1 for before, after in steps)
            notes["object_ids_above_limit"] += label > LABEL_LIMIT
            if row.annotated_frames is not None:
                notes["intervals_past_end"] += sum(end >= row.annotated_frames for _, end in pairs)
    return notes


def _total(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return sum(count for count in known if count is not None) if None not in known else None
