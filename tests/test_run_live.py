"""gmos-run on streams: a file played as one equals the run over it; pipes, signals, drops; what is written and said."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import gmos_deploy as gmos
from gmos_deploy.cli import guarded
from gmos_deploy.commands.run import run_command
from gmos_deploy.runtime.live.sources import registry
from gmos_deploy.runtime.live.sources.registry import register_live_source, resolve_live
from gmos_deploy.runtime.live.sources.source import Asked, LiveInput, SourceLostError

Run = Callable[..., tuple[int, str, str]]

FRAMES, FPS = 7, 8
NANO = ("--variant", "gmos-s", "--backend", "onnxruntime", "--device", "cpu")
ENTRY = "from gmos_deploy.entry import run; run()"


@pytest.fixture
def gmos_run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: exit status, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        status = guarded(run_command, "gmos-run", [str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def clip(tmp_path: Path, moving_disc: tuple[NDArray[np.uint8], Any]) -> Path:
    """A disc that moves, 7 frames at 8 a second, without loss."""
    frames = moving_disc[0][:, ::2, ::2]
    path = tmp_path / "disc.mkv"
    with av.open(str(path), "w", format="matroska") as output:
        stream: Any = output.add_stream("ffv1", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return path


def probabilities(folder: Path) -> list[bytes]:
    """The pixels of a run's PNGs, in their order."""
    return [Image.open(path).tobytes() for path in sorted(folder.rglob("*.png"))]


def answered(text: str) -> list[int]:
    """Numbers of the frames that lines of JSON answer."""
    return [json.loads(line)["index"] for line in text.splitlines()]


def test_a_file_played_equals_the_run_over_it(gmos_run: Run, clip: Path, tmp_path: Path) -> None:
    """GMOS-S, byte for byte at a batch of one; every frame is answered, and the summary tells the delay."""
    status, _, err = gmos_run(
        clip, *NANO, "--batch_size", 1, "--save_mode", "prob", "--save_dir", tmp_path / "file"
    )
    assert status == 0, err
    status, out, err = gmos_run(
        "--live", clip, *NANO, "--save_mode", "prob+tracks", "--save_dir", tmp_path / "live", "--json"
    )
    assert status == 0, err
    expected = probabilities(tmp_path / "file/prob/disc")
    assert len(expected) == FRAMES
    found = probabilities(tmp_path / "live")
    assert found == expected
    report = json.loads(out)
    stream = report["stream"]
    assert (report["variant"], report["preset"]) == ("gmos-s", "nano")
    assert (stream["answered"], stream["dropped"], stream["lost"], stream["resets"]) == (FRAMES, 0, 0, 0)
    assert (stream["kind"], stream["drop"], stream["stride"], stream["delay_frames"]) == (
        "file",
        "none",
        1,
        2,
    )
    assert stream["ended"] == "the source ended"
    assert set(stream["latency_ms"]) == set(stream["beyond_delay_ms"]) == {"p50", "p90", "p99", "max"}
    assert stream["peak_mib"] > 50
    (folder,) = stream["outputs"]
    assert Path(folder).is_relative_to(tmp_path / "live/live/disc")
    (lines,) = Path(folder).rglob("*.jsonl")
    assert answered(lines.read_text()) == list(range(FRAMES))


def test_gmos_answers_with_mos_i(gmos_run: Run, clip: Path) -> None:
    """As lines of JSON on standard output, the summary beside them on the other one; nothing is written."""
    status, out, err = gmos_run("--live", clip, *NANO, "--variant", "gmos", "--tracks", "-")
    assert status == 0, err
    assert answered(out) == list(range(FRAMES))
    assert set(json.loads(out.splitlines()[-1])) >= {
        "index",
        "time_s",
        "objects",
        "dropped_before",
        "reset_before",
    }
    assert f"disc: {FRAMES} answers in " in err
    assert "so that an answer comes 2 frames (250 ms) later" in err
    assert not (clip.parent / "gmos-output").exists()


def test_the_front_door_streams_the_same(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`model.stream` reads a pipe in a thread; its answers are those of the file."""
    with gmos.load(variant="gmos-s", backend="onnxruntime", device="cpu") as model:
        expected = [frame.probability for frame in model.stream(clip)]
        with clip.open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            found = list(model.stream("-"))
        assert model.delay_frames == 2
    assert len(found) == FRAMES
    assert all(np.array_equal(one.probability, other) for one, other in zip(found, expected, strict=True))


def test_standard_input(gmos_run: Run, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container from a pipe is answered as it comes, and its end is the end."""
    with clip.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        status, out, err = gmos_run("-", *NANO, "--tracks", "-")
    assert status == 0, err
    assert answered(out) == list(range(FRAMES))
    assert f"stdin: {FRAMES} answers" in err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_in_the_middle(clip: Path, tmp_path: Path) -> None:
    """The segment that was open is closed and whole, the summary is printed, and the status is 130."""
    read, write = os.pipe()
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            ENTRY,
            "-",
            *NANO,
            "--tracks",
            "-",
            "--timeout",
            "60",
            "--save_mode",
            "tracks+mp4",
            "--save_dir",
            tmp_path,
        ],
        stdin=read,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(read)
        # And then nothing more: the source hangs.
        os.write(write, clip.read_bytes())
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        os.close(write)
    assert process.returncode == 130, err
    assert "gmos-run: interrupted; what was finished is kept" in err
    numbers = answered(first + out)
    assert numbers == list(range(len(numbers)))
    assert re.search(rf"stdin: {len(numbers)} answers? in .*; interrupted", err)
    (lines,) = (tmp_path / "live").rglob("*.jsonl")
    assert answered(lines.read_text()) == numbers
    (overlay,) = (tmp_path / "live").rglob("*.mp4")
    with av.open(str(overlay)) as video:
        assert len(list(video.decode(video=0))) == len(numbers)


class Robot:
    """A kind of live source of somebody else's: it plays a file, and then it is gone once."""

    kind = "robot"

    def __init__(self, clip: Path) -> None:
        self._file = resolve_live(str(clip), Asked(live=True))
        self.connections = 0

    def takes(self, given: str) -> bool:
        return given.startswith("robot:")

    def resolve(self, given: str, asked: Asked) -> LiveInput:
        return LiveInput(kind=self.kind, name=given[6:], shown=given, open=self._open, waits=True)

    def _open(self, timeout_s: float) -> Any:
        self.connections += 1
        if self.connections == 2:
            raise SourceLostError("out of reach")
        reader = self._file.open(timeout_s)
        return reader if self.connections > 2 else Unsteady(reader)


class Unsteady:
    """A reader whose end is a loss."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.rate_fps, self.pixel_aspect = reader.rate_fps, reader.pixel_aspect

    def __enter__(self) -> Unsteady:
        return self

    def __exit__(self, *given: object) -> None:
        self._reader.__exit__(*given)

    def __iter__(self) -> Iterator[Any]:
        yield from self._reader
        raise SourceLostError("it drove away")


def test_a_source_of_somebody_elses_that_comes_back(
    gmos_run: Run, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered before a run; it is connected again, and the second sequence is that of the file again."""
    monkeypatch.setattr(registry, "LIVE_SOURCES", list(registry.LIVE_SOURCES))
    register_live_source(Robot(clip))
    status, out, err = gmos_run("robot:one", *NANO, "--tracks", "-")
    assert status == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["index"] for line in lines] == list(range(2 * FRAMES))
    assert [line["index"] for line in lines if line["reset_before"]] == [FRAMES]
    assert [line["objects"] for line in lines[:FRAMES]] == [line["objects"] for line in lines[FRAMES:]]
    assert "robot:one was lost: it drove away; connecting again for 60 s" in err
    assert "1 new sequence, 1 reconnection" in err


def test_a_file_in_its_own_time(gmos_run: Run, clip: Path) -> None:
    """Frames that the device is too slow for are left out and counted; the last one is answered."""
    status, out, err = gmos_run("--live", clip, *NANO, "--drop", "oldest", "--tracks", "-")
    assert status == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    numbers = [line["index"] for line in lines]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == FRAMES - 1
    # The first frames may have gone while networks were loaded.
    gone = sum(line["dropped_before"] for line in lines)
    assert len(numbers) + gone == FRAMES - numbers[0] + lines[0]["dropped_before"]
    assert f"{gone} dropped (--drop oldest), 0 lost by the source" in err


def test_a_full_disk_is_one_line(
    gmos_run: Run, clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run ends, with what was answered by then."""
    from gmos_deploy.errors import GmosError
    from gmos_deploy.runtime.live import results

    def full(*_: object) -> None:
        raise GmosError(f"{tmp_path}: No space left on device; free some, or give another --save_dir")

    monkeypatch.setattr(results.SegmentedResults, "write", full)
    status, out, err = gmos_run(
        "--live", clip, *NANO, "--save_mode", "tracks", "--save_dir", tmp_path / "out"
    )
    assert status == 2
    assert err.splitlines()[-1].startswith(f"gmos-run: {tmp_path}: No space left on device")
    assert "disc: 0 answers" in out
    assert "an error ended it" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rtsp://admin:hunter2@127.0.0.1:1/x"], "rtsp://127.0.0.1:1/x cannot be read: Connection refused"),
        (["--live"], "no input was given; expected one stream, or one file with --live"),
        (["--live", "missing.mp4"], "missing.mp4 does not exist"),
        (["0", "--preview", "no"], "--preview no: expected [HOST:]PORT"),
        (["0", "--preview", "0.0.0.0:8000"], "token"),
        (["0", "--segment", "0"], "--segment 0: expected a positive number"),
        (
            ["0", "--tracks", "-", "--keep_segments", "3"],
            "--keep_segments 3: no files are written; give --save_mode",
        ),
        (
            ["0", "--preview", "0", "--segment", "2.5"],
            "--segment 2.5: no files are written; give --save_mode with it",
        ),
        (["0", "--retire_after", "-1"], "--retire_after -1: expected seconds"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_loaded(
    gmos_run: Run,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    clip: Path,
    tmp_path: Path,
) -> None:
    """One line and status 2; no password in it."""
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "0":
        # There is no camera here.
        arguments = ["--live", str(clip), *arguments[1:]]
    status, out, err = gmos_run(*arguments, *NANO)
    assert (status, out) == (2, "")
    assert message in err
    assert "hunter2" not in err
    assert "loaded in" not in err
