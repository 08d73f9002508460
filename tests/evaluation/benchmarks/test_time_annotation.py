"""Motion-annotation CSVs: what is read, counted and refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.benchmarks.time_annotation import (
    read_time_annotation,
    select_rows,
    summarise_time_annotation,
    time_annotation_notes,
)

HEADER = "seq_name,time_anno,ann_frames,vid_frames,dataset,split\n"


def write(path: Path, *lines: str, header: str = HEADER) -> Path:
    """A CSV from raw lines."""
    path.write_text(header + "".join(line + "\n" for line in lines))
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Unsorted keys, overlapping and touching intervals, an empty row and an interval past the end."""
    return write(
        tmp_path / "time.csv",
        "a,\"{'2': [[0, 4], [3, 6]], '1': [[0, 2], [3, 5]]}\",10,20,davis,test",
        "b,{},5,5,davis,test",
        'c,"{1: [[2, 9]]}",8,8,ytvos,test',
    )


def test_intervals_become_a_table_of_moving_frames(mixed: Path) -> None:
    """Both ends are inside; ids above the clip's end or the channels are cut."""
    row = read_time_annotation(mixed)[0]
    moving = row.moving(5)
    assert moving.shape == (5, 20)
    assert np.flatnonzero(moving[:, 0]).tolist() == [0, 1, 2, 3, 4]
    assert list(row.intervals) == [1, 2]
    assert row.moving_frames(2) == 7
    assert row.moving_frames(2, 5) == 5


def test_summary_counts_each_frame_once(mixed: Path) -> None:
    """The union of intervals up to the last frame; their plain sum for the published share."""
    rows = read_time_annotation(mixed)
    splits = summarise_time_annotation(rows)
    davis, ytvos = splits["davis/test"], splits["ytvos/test"]
    assert (davis.rows, davis.rows_with_motion, davis.objects, davis.intervals) == (2, 1, 2, 4)
    assert (davis.ann_frames, davis.vid_frames, davis.max_object_id) == (15, 25, 2)
    assert (davis.moving_object_frames, davis.object_frames) == (13, 20)
    assert davis.motion_pct_object_mean == pytest.approx(65)
    assert davis.motion_pct_object_mean_no_union == pytest.approx(75)
    assert davis.motion_pct_pooled == pytest.approx(65)
    assert ytvos.moving_object_frames == 6
    assert ytvos.motion_pct_object_mean_no_union == pytest.approx(100)


def test_peculiar_rows_are_counted(mixed: Path) -> None:
    """Nothing of it is an error, all of it is said."""
    assert time_annotation_notes(read_time_annotation(mixed)) == Counter(
        rows_without_motion=1,
        unsorted_object_ids=1,
        overlapping_intervals=1,
        touching_intervals=1,
        intervals_past_end=1,
    )


def test_two_columns_are_enough(tmp_path: Path) -> None:
    """Without frame counts there are no shares, and no split."""
    path = write(tmp_path / "t.csv", "a,\"{'1': [[0, 0]]}\"", header="seq_name,time_anno\n")
    splits = summarise_time_annotation(read_time_annotation(path))
    assert list(splits) == ["all"]
    assert splits["all"].ann_frames is None
    assert splits["all"].motion_pct_pooled is None


def test_rows_of_a_dataset_are_selected(mixed: Path) -> None:
    """Only the split's rows count, and rows without motion are dropped and counted."""
    rows, dropped = select_rows(read_time_annotation(mixed), "davis17-im", mixed)
    assert ([row.name for row in rows], dropped) == (["a"], 1)


def test_a_csv_without_columns_is_used_whole(tmp_path: Path) -> None:
    """The two-column CSV of one dataset needs no selection."""
    path = write(tmp_path / "t.csv", 'a,"{1: [[0, 0]]}"', 'b,"{1: [[0, 0]]}"', header="seq_name,time_anno\n")
    rows, dropped = select_rows(read_time_annotation(path), "ytvos19-im", path)
    assert ([row.name for row in rows], dropped) == (["a", "b"], 0)


def test_a_csv_of_another_dataset_is_refused(tmp_path: Path) -> None:
    """The message says what is there."""
    path = write(tmp_path / "t.csv", 'a,"{1: [[0, 0]]}",1,1,ovis,train')
    with pytest.raises(GmosError, match=r"no rows of davis/test, found ovis/train: give the CSV"):
        select_rows(read_time_annotation(path), "davis17-im", path)


def test_a_split_without_motion_is_refused(tmp_path: Path) -> None:
    """There would be nothing to average."""
    path = write(tmp_path / "t.csv", "a,{},1,1,davis,test")
    with pytest.raises(GmosError, match="no row of davis17-im has any motion"):
        select_rows(read_time_annotation(path), "davis17-im", path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,nonsense(,1,1,d,t", r"line 2 \(a\): time_anno is 'nonsense\(': expected \{'object id'"),
        ("a,[1],1,1,d,t", r"line 2 \(a\): time_anno is '\[1\]'"),
        ("a,,1,1,d,t", r"line 2 \(a\): time_anno is ''"),
        ("a", r"line 2 \(a\): no time_anno"),
        (",{},1,1,d,t", "line 2: no seq_name"),
        ("../a,{},1,1,d,t", r"line 2 \(\.\./a\): seq_name must be one folder name"),
        ("a,{'1': [[0, 1]]},1,1,d,t", r"line 2 \(a\): more cells than columns"),
        ("a,\"{'x': [[0, 1]]}\",1,1,d,t", "object id 'x': expected a label, 1 or more"),
        ("a,\"{'0': [[0, 1]]}\",1,1,d,t", "object id '0'"),
        ('a,"{True: [[0, 1]]}",1,1,d,t', "object id True"),
        ("a,\"{'1': [[0, 1]], 1: [[0, 1]]}\",1,1,d,t", "object 1 appears twice"),
        ("a,\"{'1': []}\",1,1,d,t", r"object 1 has \[\]: expected \[\[start, end\], …\]"),
        ("a,\"{'1': [[3, 1]]}\",1,1,d,t", r"object 1 has the interval \[3, 1\]"),
        ("a,\"{'1': [[-1, 1]]}\",1,1,d,t", r"the interval \[-1, 1\]"),
        ("a,\"{'1': [[0, 1.5]]}\",1,1,d,t", r"the interval \[0, 1\.5\]"),
        ("a,\"{'1': [4]}\",1,1,d,t", "the interval 4"),
        ("a,{},many,1,d,t", "ann_frames is 'many': expected a number of frames"),
        ("a,{},1,0,d,t", "vid_frames is '0'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, line: str, message: str) -> None:
    """Every unusable row is named by its line and sequence."""
    with pytest.raises(GmosError, match=message):
        read_time_annotation(write(tmp_path / "t.csv", line))


def test_many_bad_rows_make_one_line(tmp_path: Path) -> None:
    """The first three are shown and the rest counted."""
    path = write(tmp_path / "t.csv", *[f"s{index},oops,1,1,d,t" for index in range(5)])
    with pytest.raises(GmosError, match=r"line 2 \(s0\).*line 3 \(s1\).*line 4 \(s2\).*; 2 more$"):
        read_time_annotation(path)


def test_repeated_sequences_are_refused(tmp_path: Path) -> None:
    """A sequence may appear once per split."""
    path = write(tmp_path / "t.csv", "a,{},1,1,d,t", "a,{},1,1,d,u", "a,{},1,1,d,t")
    with pytest.raises(GmosError, match=r"line 4 \(a\): sequence repeated, first on line 2"):
        read_time_annotation(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column seq_name and time_anno, found nothing"),
        (b"name,when\n", "no column seq_name and time_anno, found name, when"),
        (b"seq_name,time_anno\n", "no rows: expected one row per sequence"),
        (b"\xff\xfe\x00", "cannot read the motion-annotation CSV"),
    ],
)
def test_files_that_are_no_annotation_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Wrong columns, no rows and wrong encodings are told apart."""
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(GmosError, match=message):
        read_time_annotation(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A wrong path is the commonest mistake."""
    with pytest.raises(GmosError, match=r"gone\.csv: cannot read the motion-annotation CSV"):
        read_time_annotation(tmp_path / "gone.csv")
