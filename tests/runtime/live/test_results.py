"""Results of a stream: segments that are whole, bounded on disk, and lines for whoever reads along."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.contract import Variant
from gmos_deploy.runtime.files.made_from import ClipOrigin, MadeFrom
from gmos_deploy.runtime.frame_result import FrameResult, LiveFacts
from gmos_deploy.runtime.live import segment_writers, segments
from gmos_deploy.runtime.live.results import SegmentedResults, TracksToStdout, open_live_sinks
from gmos_deploy.runtime.media import Media
from gmos_deploy.runtime.results.completion import PRIVATE_FOLDER

HW = (32, 48)
FPS = 10.0


def answer(index: int, variant: Variant = "gmos", **facts: Any) -> FrameResult:
    """Slot 1 holds object 1, which moves; slot 2 holds object 7, which is still."""
    tracked = np.zeros(HW, np.uint8)
    tracked[2:10, index % 20 : index % 20 + 8] = 1
    tracked[20:24, 30:40] = 2
    shared: dict[str, Any] = {
        "index": index,
        "time_s": index / FPS,
        "rgb": np.full((*HW, 3), 90, np.uint8),
        "live": LiveFacts(arrival_s=100 + index / FPS, answer_s=100.25 + index / FPS, **facts),
    }
    if variant == "gmos-s":
        mask = np.uint8(tracked == 1)
        return FrameResult(maps={"foreground": mask, "probability": 200 * mask}, **shared)
    return FrameResult(
        maps={"mos-i": np.where(tracked == 1, tracked, 0), "tracked": tracked},
        ious={"mos-i": np.float32([0.5, np.nan]), "tracked": np.float32([0.75, np.nan])},
        ids={1: 1, 2: 7},
        **shared,
    )


def media(**fields: Any) -> Media:
    return Media(video_hw=HW, fps=FPS, sequence="door", source="rtsp://camera/door", stride=1, **fields)


def files(save_dir: Path, *modes: str, variant: Variant = "gmos", **options: Any) -> SegmentedResults:
    """The sink that writes files."""
    (sink,) = open_live_sinks(
        save_dir, modes, media(), variant=variant, **{"segment_s": 1.0, "settings": {"stride": 1}, **options}
    )
    assert isinstance(sink, SegmentedResults)
    return sink


def lines_of(segment: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (segment / "tracks.jsonl").read_text().splitlines()]


def segments_of(save_dir: Path) -> list[Path]:
    return sorted(one for one in save_dir.glob("live/door/*/*") if one.is_dir())


def test_segments_have_what_was_asked_for(tmp_path: Path) -> None:
    """Tracks, label maps and overlays of GMOS in two whole segments and the rest, and the run's own record."""
    origin = MadeFrom(clips=(ClipOrigin(name="door", sha256=None),))
    with files(tmp_path, "tracks", "mask", "mp4", made_from=origin) as sink:
        assert sink.needs_rgb
        for index in range(23):
            sink.write(answer(index, dropped_before=3 * (index == 4)))
    found = segments_of(tmp_path)
    assert [one.name for one in found] == ["000000", "000001", "000002"]
    assert [len(lines_of(one)) for one in found] == [10, 10, 3]
    first = lines_of(found[0])
    assert [line["dropped_before"] for line in first] == [0, 0, 0, 0, 3, 0, 0, 0, 0, 0]
    assert {key: first[1][key] for key in ("index", "time_s", "arrival_s", "answer_s", "reset_before")} == {
        "index": 1,
        "time_s": 0.1,
        "arrival_s": 100.1,
        "answer_s": 100.35,
        "reset_before": False,
    }
    moving, still = first[1]["objects"]
    assert (moving["id"], moving["slot"], moving["moving"], moving["iou"]) == (1, 1, True, 0.75)
    assert (still["id"], still["slot"], still["moving"], still["iou"]) == (7, 2, False, None)
    assert (moving["box"], moving["area"], moving["rle"]["size"]) == ([1, 2, 9, 10], 64, list(HW))
    for name, shown in (("mos-i_frame", {0, 1}), ("tracked_frame", {0, 1, 2})):
        folder = found[1] / name
        assert sorted(path.name for path in folder.glob("*.png")) == [f"{i:09d}.png" for i in range(10, 20)]
        with Image.open(folder / "000000012.png") as picture:
            assert set(np.unique(np.asarray(picture))) == shown
        with (folder / "index.csv").open(newline="") as table:
            assert list(csv.DictReader(table))[2] == {
                "output": "000000012.png",
                "frame": "12",
                "time_s": "1.200000",
                "ids": "1:1 2:7",
            }
    with av.open(str(found[1] / "overlay.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([i / FPS for i in range(10)])
    record = json.loads((found[2] / "segment.json").read_text())
    assert record == {
        "stream": "door",
        "run": found[2].parent.name,
        "number": 2,
        "first_frame": 20,
        "first_time_s": 2.0,
        "reset_before": False,
        "last_frame": 22,
        "last_time_s": 2.2,
        "answers": 3,
        "whole": True,
    }
    session = json.loads((found[0].parent / "session.json").read_text())
    assert (session["segments"], session["answers"], session["stream"]) == (3, 23, "door")
    assert session["settings"] == {"stride": 1}
    assert session["made_from"]["clips"][0]["name"] == "door"
    assert session["started"] <= session["ended"]
    assert not list((tmp_path / PRIVATE_FOLDER).glob("*"))


def test_gmos_s_has_probabilities_and_one_object(tmp_path: Path) -> None:
    """Its foreground is object 1 in slot 1, without an IoU."""
    with files(tmp_path, "tracks", "mask", "prob", "mp4", variant="gmos-s") as sink:
        for index in range(3):
            sink.write(answer(index, "gmos-s"))
    (segment,) = segments_of(tmp_path)
    (one,) = lines_of(segment)[0]["objects"]
    assert (one["id"], one["slot"], one["moving"], one["iou"], one["area"]) == (1, 1, True, None, 64)
    with (
        Image.open(segment / "prob/000000002.png") as grey,
        Image.open(segment / "frame/000000002.png") as mask,
    ):
        assert (np.asarray(grey) == 200 * np.asarray(mask)).all()
    assert (segment / "overlay.mp4").is_file()


def test_a_reset_begins_a_segment(tmp_path: Path) -> None:
    """And the new one says so."""
    with files(tmp_path, "tracks") as sink:
        for index in range(6):
            sink.write(answer(index, reset_before=index == 4))
    found = segments_of(tmp_path)
    assert [[line["index"] for line in lines_of(one)] for one in found] == [[0, 1, 2, 3], [4, 5]]
    assert [json.loads((one / "segment.json").read_text())["reset_before"] for one in found] == [False, True]


def test_an_overlay_keeps_uneven_times(tmp_path: Path) -> None:
    """A camera that drops frames is shown at its own pace, from the segment's start."""
    times = [3.0, 3.1, 3.15, 3.55, 3.9]
    with files(tmp_path, "mp4") as sink:
        for index, time_s in enumerate(times):
            one = answer(index)
            sink.write(
                FrameResult(**{name: getattr(one, name) for name in one.__slots__} | {"time_s": time_s})
            )
    (segment,) = segments_of(tmp_path)
    with av.open(str(segment / "overlay.mp4")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert shown == pytest.approx([time_s - 3.0 for time_s in times], abs=1e-4)


def test_runs_on_one_place_stay_apart(tmp_path: Path) -> None:
    """A service that starts again writes beside what it wrote before."""
    for _ in range(2):
        with files(tmp_path, "tracks") as sink:
            sink.write(answer(0))
            assert sink.folder is None
        assert sink.folder is not None
    runs = {one.parent.name for one in segments_of(tmp_path)}
    assert len(runs) == 2


def test_nothing_is_left_of_a_run_without_answers(tmp_path: Path) -> None:
    """Not even folders."""
    with files(tmp_path / "out", "tracks", "mp4"):
        pass
    assert not list(tmp_path.iterdir())


def test_old_segments_go(tmp_path: Path) -> None:
    """The newest stay, those of an earlier bounded run among them; a run that kept all is left alone."""
    for keep, answers in ((None, 25), (3, 15), (3, 15)):
        with files(tmp_path, "tracks", keep_segments=keep) as sink:
            for index in range(answers):
                sink.write(answer(index))
        if keep is None:
            unbounded = sink.folder
    found = segments_of(tmp_path)
    assert unbounded is not None
    assert [one.name for one in found if one.parent == unbounded] == ["000000", "000001", "000002"]
    bounded = [one for one in found if one.parent != unbounded]
    assert [one.name for one in bounded] == ["000001", "000000", "000001"]
    assert bounded[0].parent != bounded[1].parent
    with files(tmp_path, "tracks", keep_segments=1) as sink:
        sink.write(answer(0))
    last = sink.folder
    left = {one.parent for one in segments_of(tmp_path)}
    assert left == {unbounded, last}
    assert {one.name for one in (tmp_path / "live/door").iterdir()} == {one.name for one in left}


def test_runs_that_go_on_keep_their_segments(tmp_path: Path) -> None:
    """Two streams of one name, as of two pipes: each is bounded by itself, and what one leaves by the next one."""
    with (
        files(tmp_path, "tracks", keep_segments=2) as first,
        files(tmp_path, "tracks", keep_segments=2) as other,
    ):
        for index in range(45):
            first.write(answer(index))
            other.write(answer(index))
        found = segments_of(tmp_path)
        assert {one.parent for one in found} == {first.folder, other.folder}
        assert [one.name for one in found] == ["000002", "000003"] * 2
        assert first.folder is not None
        assert json.loads((first.folder / "session.json").read_text())["run"] == first.folder.name
    with files(tmp_path, "tracks", keep_segments=2) as third:
        third.write(answer(0))
    assert [one.name for one in segments_of(tmp_path)][-1] == "000000"
    assert len(segments_of(tmp_path)) == 2


def test_the_current_run_is_the_newest(tmp_path: Path) -> None:
    """A device without a battery for its clock begins in 1970 each time."""
    stream = tmp_path / "live/door"
    for run in ("19700101T000010.000Z-0000", "20990101T000000.000Z-0000"):
        for number in ("000000", "000001"):
            (stream / run / number).mkdir(parents=True)
        (stream / run / "session.json").write_text('{"keep_segments": 2}')
    (stream / "note.txt").write_text("somebody's own")
    (tmp_path / "work").mkdir()
    segments.prune(stream, "19700101T000010.000Z-0000", 3, tmp_path / "work")
    assert sorted(str(one.relative_to(stream)) for one in stream.glob("*/0*")) == [
        "19700101T000010.000Z-0000/000000",
        "19700101T000010.000Z-0000/000001",
        "20990101T000000.000Z-0000/000001",
    ]
    assert (stream / "note.txt").exists()


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import test_results as t
with t.files(Path(sys.argv[1]), "tracks", "mask", "mp4") as sink:
    for index in range(16):
        sink.write(t.answer(index))
    # Half of a line, and a picture that the index does not know.
    open = next(Path(sys.argv[1]).glob(".gmos/live-*/content/open"))
    with (open / "tracks.jsonl").open("ab") as file:
        file.write(b'{"index": 16, "obj')
    (open / "tracked_frame" / "000000016.png").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL if len(sys.argv) < 4 else signal.SIGINT)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nobody kills so on Windows")
def test_a_kill_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Closed segments stay; of the open one the next run keeps whole lines and pictures, without the overlay."""
    found = subprocess.run([sys.executable, "-c", KILLED, tmp_path, Path(__file__).parent], check=False)
    assert found.returncode == -signal.SIGKILL
    (closed,) = segments_of(tmp_path)
    assert (closed / "overlay.mp4").is_file()
    with files(tmp_path, "tracks"):
        pass
    kept = segments_of(tmp_path)[1]
    assert [line["index"] for line in lines_of(kept)] == list(range(10, 16))
    pictures = [f"{index:09d}.png" for index in range(10, 16)]
    assert sorted(path.name for path in (kept / "tracked_frame").glob("*.png")) == pictures
    record = json.loads((kept / "segment.json").read_text())
    assert (record["whole"], record["answers"]) == (False, 6)
    assert (record["first_frame"], record["last_frame"]) == (10, None)
    assert not (kept / "overlay.mp4").exists()
    assert not list((tmp_path / PRIVATE_FOLDER).glob("live-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ there")
def test_an_interruption_closes_what_is_open(tmp_path: Path) -> None:
    """Overlay and all."""
    subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, Path(__file__).parent, "int"],
        check=False,
        capture_output=True,
    )
    kept = segments_of(tmp_path)[1]
    assert json.loads((kept / "segment.json").read_text())["whole"]
    with av.open(str(kept / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    session = json.loads((kept.parent / "session.json").read_text())
    assert session["ended"] is not None


def test_a_full_disk_is_one_line_and_keeps_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed segments, and of the open one whole lines."""
    written = 0
    plain = segment_writers._Lines.add

    def fills_up(lines: Any, line: bytes) -> None:
        nonlocal written
        written += 1
        if written > 14:
            with segment_writers.writing(lines._path):
                lines._file.write(line[:20])
                raise OSError(28, "No space left on device")
        plain(lines, line)

    monkeypatch.setattr(segment_writers._Lines, "add", fills_up)

    def run() -> None:
        with files(tmp_path, "tracks", "mp4") as sink:
            for index in range(30):
                sink.write(answer(index))

    with pytest.raises(GmosError, match=r"cannot write .*tracks\.jsonl: the disk is full; free some space"):
        run()
    assert [len(lines_of(one)) for one in segments_of(tmp_path)] == [10, 4]
    assert not list((tmp_path / PRIVATE_FOLDER).glob("live-*"))


def test_lost_space_at_the_end_of_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overlay that cannot be finished loses itself, not the tracks beside it."""

    def full(*_: object) -> None:
        raise GmosError("cannot write overlay.mp4: the disk is full")

    monkeypatch.setattr(segment_writers.OverlayVideo, "__exit__", full)

    def run() -> None:
        with files(tmp_path, "tracks", "mp4") as sink:
            for index in range(30):
                sink.write(answer(index))

    with pytest.raises(GmosError, match=r"cannot write overlay\.mp4: the disk is full"):
        run()
    (kept,) = segments_of(tmp_path)
    assert len(lines_of(kept)) == 10
    assert not (kept / "overlay.mp4").exists()


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        (b"", 0),
        (b"no line at all", 0),
        (b"a" * 200_000, 0),
        (b"one\n", 1),
        (b"one\ntwo", 1),
        (b"\n" + b"x" * 70_000, 1),
        (b"one\ntwo\nthree\nfo", 2),
    ],
)
def test_cut_lines(tmp_path: Path, cut: bytes, whole: int) -> None:
    """Everything after the last line break goes, and what another file does not have; and pictures without a line."""
    path, index = tmp_path / "tracks.jsonl", tmp_path / "frame/index.csv"
    index.parent.mkdir()
    path.write_bytes(cut)
    index.write_bytes(b"output,frame\r\n1.png,1\r\n2.png,2\r\n3.pn")
    for number in range(1, 4):
        (index.parent / f"{number}.png").write_bytes(b"")
    assert segment_writers.tidy(tmp_path) == whole
    assert path.read_bytes() == b"".join(cut.splitlines(keepends=True)[:whole])
    assert sorted(one.name for one in index.parent.glob("*.png")) == [f"{i + 1}.png" for i in range(whole)]
    assert index.read_bytes().count(b"\n") == 1 + whole
    index.write_bytes(b"outp")
    assert segment_writers.tidy(tmp_path) == 0
    assert index.read_bytes() == b""


@pytest.mark.parametrize("mode", ["coco", "npz", "yolo", "ytvis"])
def test_what_needs_the_whole_video_is_refused(tmp_path: Path, mode: str) -> None:
    """Before anything is made."""
    with pytest.raises(
        GmosError, match=f"--save_mode {mode}: needs the whole video.*expected mask, mp4, tracks of"
    ):
        files(tmp_path, "tracks", mode)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_s": 0.0}, "--segment 0: expected a positive number of seconds"),
        ({"segment_s": float("nan")}, "--segment nan: expected a positive"),
        ({"keep_segments": 0}, "--keep_segments 0: expected 1 or more"),
    ],
)
def test_bounds_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """As the command's options are."""
    with pytest.raises(GmosError, match=message):
        files(tmp_path, "tracks", **options)


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_stream_is_called_as_a_folder_can_be(tmp_path: Path, name: str) -> None:
    """Names come from addresses."""
    with pytest.raises(GmosError, match="expected a name that a folder can have"):
        open_live_sinks(tmp_path, ["tracks"], Media(video_hw=HW, fps=1, sequence=name), variant="gmos")


@pytest.mark.parametrize(
    "record",
    ["{}", "no JSON", '{"stream": "..", "run": "x", "number": 0, "first_frame": 0, "first_time_s": 0}'],
)
def test_a_work_folder_of_somebody_elses_is_not_filed(tmp_path: Path, record: str) -> None:
    """Its own word on its place is not believed."""
    (tmp_path / "out/content/open").mkdir(parents=True)
    (tmp_path / "out/content/open/segment.json").write_text(record)
    segments.settle(tmp_path / "out/content", tmp_path / "out")
    assert not (tmp_path / "out/live").exists()
    assert not (tmp_path / "x").exists()


def test_tracks_to_standard_output(tmp_path: Path) -> None:
    """A line an answer, the same as in files, each of them there at once."""
    flushed: list[int] = []

    class Pipe(BytesIO):
        def flush(self) -> None:
            flushed.append(self.getvalue().count(b"\n"))

    with TracksToStdout(pipe := Pipe()) as sink, files(tmp_path, "tracks") as beside:
        for index in range(3):
            sink.write(answer(index))
            beside.write(answer(index))
    assert flushed[:3] == [1, 2, 3]
    assert pipe.getvalue() == (segments_of(tmp_path)[0] / "tracks.jsonl").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes differ there")
def test_a_closed_pipe_ends_the_run() -> None:
    """As of any command: with the error that means it, and no other."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):
        TracksToStdout(pipe).write(answer(0))  # type: ignore[arg-type]


def test_no_place_writes_no_files() -> None:
    """Standard output alone."""
    sinks = open_live_sinks(None, ["tracks"], media(), variant="gmos", tracks_to_stdout=True)
    assert [type(one) for one in sinks] == [TracksToStdout]
