"""Reading, computing and writing overlap; whatever ends a run, its sinks are closed and its summary is true."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from queue import SimpleQueue
from threading import Event, Thread, get_ident
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.frame_result import FrameResult, LiveFacts
from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.reading import ReadingOptions
from gmos_deploy.runtime.live.sources.source import LiveInput, Picture, SourceLostError
from gmos_deploy.runtime.live.threads.frame_queue import Drop
from gmos_deploy.runtime.live.threads.live_run import LiveRun
from gmos_deploy.runtime.live.threads.reading_thread import ReadingThread

HW = (4, 6)
FPS = 25.0
WAIT_S = 20.0
"""Until a test that hangs fails."""


class Camera:
    """Gives what the test puts: pictures, errors, `None` for the end; and says when one was taken."""

    rate_fps = FPS
    pixel_aspect = Fraction(1)

    def __init__(self, steps: Callable[[Camera], Iterator[Picture]], **fields: Any) -> None:
        self._steps = steps
        self.taken = 0
        self.closed = Event()
        self.input = LiveInput(
            kind="test", name="camera", shown="test://camera", open=lambda _: self, **fields
        )

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()

    def __iter__(self) -> Iterator[Picture]:
        for picture in self._steps(self):
            yield picture
            self.taken += 1


def picture(index: int, hw: tuple[int, int] = HW, *, time_s: float | None = None) -> Picture:
    rgb = np.full((*hw, 3), index % 256, np.uint8)
    return Picture(rgb=rgb, time_s=index / FPS if time_s is None else time_s, arrival_s=100 + index / FPS)


class Session:
    """Answers a frame when the next one comes, as a session with a window of two would."""

    delay_frames = 1

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self._waiting: LiveFrame | None = None
        self.on_push: Callable[[LiveFrame], None] = lambda _: None
        self.closed = False
        self.not_finite = {"gmos_s": 2}

    def prepare(self, frame: LiveFrame) -> LiveFrame:
        return replace(frame, pi3_rgb=frame.rgb[:1])

    def push(self, frame: LiveFrame) -> list[FrameResult]:
        self.threads.add(get_ident())
        self.calls.append(f"push {frame.index}")
        self.on_push(frame)
        ended = self._answers()
        self._waiting = frame
        return ended

    def reset(self) -> list[FrameResult]:
        self.calls.append("reset")
        return self._answers()

    def finish(self) -> list[FrameResult]:
        self.calls.append("finish")
        return self._answers()

    def close(self) -> None:
        self.threads.add(get_ident())
        self.closed = True

    def _answers(self) -> list[FrameResult]:
        frame, self._waiting = self._waiting, None
        if frame is None:
            return []
        return [
            FrameResult(
                index=frame.index,
                time_s=frame.time_s,
                maps={"foreground": frame.rgb[..., 0]},
                live=LiveFacts(
                    arrival_s=frame.arrival_s,
                    answer_s=frame.arrival_s + 0.1,
                    dropped_before=frame.dropped_before,
                    reset_before=frame.new_sequence,
                ),
            )
        ]


class Sink:
    """Notes what it is given."""

    needs_rgb = False

    def __init__(self) -> None:
        self.written: list[int] = []
        self.state = "new"
        self.on_write: Callable[[FrameResult], None] = lambda _: None

    def __enter__(self) -> Sink:
        self.state = "open"
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.state = "closed" if kind is None else f"left with {kind.__name__}"

    def write(self, answer: FrameResult) -> None:
        self.on_write(answer)
        self.written.append(answer.index)


class Listener:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.numbers: list[dict[str, Any]] = []
        self.heard = Event()

    def write(self, answer: FrameResult) -> None:
        self.written.append(answer.index)

    def told(self, numbers: Any) -> None:
        self.numbers.append(dict(numbers))
        self.heard.set()


@contextmanager
def live_run(
    camera: Camera,
    session: Session,
    *sinks: Sink,
    drop: Drop = "none",
    options: ReadingOptions | None = None,
    listeners: tuple[Listener, ...] = (),
) -> Iterator[LiveRun]:
    with ReadingThread(camera.input, options or ReadingOptions(), drop) as reading:
        reading.wait_for_start()
        yield LiveRun(reading, session, sinks, listeners=listeners)


def test_every_frame_of_what_waits_is_answered() -> None:
    """In order, into every sink; the session is used by one thread, and closed there."""
    camera, session, sinks = (
        Camera(lambda _: map(picture, range(30)), waits=True),
        Session(),
        (Sink(), Sink()),
    )
    with live_run(camera, session, *sinks) as run:
        summary = run.run()
    assert [sink.written for sink in sinks] == [list(range(30))] * 2
    assert {sink.state for sink in sinks} == {"closed"}
    assert session.closed
    assert len(session.threads) == 1
    assert session.calls[-1] == "finish"
    assert camera.closed.is_set()
    assert (summary.answered, summary.dropped, summary.lost, summary.resets) == (30, 0, 0, 0)
    # Black frames have no motion.
    assert summary.moving == 29
    assert summary.ended == "the source ended"
    assert summary.not_finite == {"gmos_s": 2}
    # The last answer waited for no frame.
    assert summary.latency_ms == pytest.approx({"p50": 100, "p90": 100, "p99": 100, "max": 100}, rel=5e-3)
    assert summary.beyond_delay_ms == pytest.approx({"p50": 60, "p90": 60, "p99": 60, "max": 60}, rel=5e-3)


def test_a_summary_for_people() -> None:
    """Every number that matters, with its unit."""
    camera = Camera(lambda _: map(picture, (0, 1, 2, 5)), waits=True)
    with live_run(camera, Session()) as run:
        run.run()
    run.summary.seconds, run.summary.fps, run.summary.peak_mib = 2.0, 1.5, 123.4
    run.summary.outputs = ["there"]
    assert run.summary.lines() == [
        "camera: 4 answers in 2.0 s, 1.50 a second; motion on 3; the source ended",
        "  test://camera: 6x4, 25 frames per second (stated), stride 3, so that an answer comes 1 frames (40 ms) later",
        "  0 dropped (--drop none), 2 lost by the source, 0 new sequences, 0 reconnections",
        "  latency 100, 100 and 100 ms; beyond the method's delay 60, 60 and 60 ms (percentiles 50, 90, 99)",
        "  peak 123 MiB of host memory",
        "  note: values that are not finite on 2 frames (gmos_s)",
        "  there",
    ]
    assert run.summary.as_json()["lost"] == 2


def test_drops_are_counted() -> None:
    """While the session computes, the camera goes on: all but the two newest of those frames are left out."""
    computing, came = Event(), Event()

    def frames(_: Camera) -> Iterator[Picture]:
        yield picture(0)
        assert computing.wait(WAIT_S)
        yield from map(picture, range(1, 21))
        came.set()

    def push(frame: LiveFrame) -> None:
        if frame.index == 0:
            computing.set()
            assert came.wait(WAIT_S)

    session, sink = Session(), Sink()
    session.on_push = push
    with live_run(Camera(frames), session, sink, drop="oldest") as run:
        summary = run.run()
    assert sink.written == [0, 19, 20]
    assert (summary.answered, summary.dropped, summary.lost) == (3, 18, 0)
    # What the window of frame 0 waited for longer than a frame, because those after it were dropped, counts.
    assert summary.beyond_delay_ms is not None
    assert summary.beyond_delay_ms["max"] == pytest.approx(60, rel=5e-3)


def test_reading_goes_on_while_networks_are_loaded() -> None:
    """Those frames are not counted as dropped, and the newest ones are answered."""
    camera = Camera(lambda _: map(picture, range(50)))
    sink = Sink()
    with ReadingThread(camera.input, ReadingOptions(), "oldest") as reading:
        reading.wait_for_start()
        assert camera.closed.wait(WAIT_S)
        summary = LiveRun(reading, Session(), [sink]).run()
    assert sink.written == [48, 49]
    assert (summary.answered, summary.dropped) == (2, 0)


def test_a_slow_sink_makes_frames_drop_and_nothing_grow() -> None:
    """Computing waits for writing, so the queue at the front drops."""
    blocked, came = Event(), Event()

    def frames(camera: Camera) -> Iterator[Picture]:
        yield picture(0)
        yield picture(1)
        assert blocked.wait(WAIT_S)
        yield from map(picture, range(2, 200))
        came.set()

    def write(answer: FrameResult) -> None:
        blocked.set()
        assert came.wait(WAIT_S)

    sink, session = Sink(), Session()
    sink.on_write = write
    with live_run(Camera(frames), session, sink, drop="oldest") as run:
        summary = run.run()
    assert summary.answered == len(sink.written) < 20
    assert summary.answered + summary.dropped == 200


def test_a_stall_ends_the_sequence() -> None:
    """The frame that waited is answered while nothing comes."""
    answered = Event()

    def frames(_: Camera) -> Iterator[Picture]:
        yield picture(0)
        yield picture(1)
        assert answered.wait(WAIT_S)
        yield picture(2)

    session, sink = Session(), Sink()
    sink.on_write = lambda answer: answered.set() if answer.index == 1 else None
    options = ReadingOptions(reset_after_s=0.2)
    with live_run(Camera(frames), session, sink, drop="oldest", options=options) as run:
        summary = run.run()
    assert session.calls == ["push 0", "push 1", "reset", "push 2", "finish"]
    assert sink.written == [0, 1, 2]
    # The answer by the stall and the one at the end waited for no frame.
    assert summary.latency_ms is not None
    assert summary.answered == 3


def test_a_jump_begins_a_new_sequence() -> None:
    """The session hears of it with the frame, and the summary counts it."""
    pictures = [picture(0), picture(1), picture(2, time_s=99.0), picture(3, time_s=99.04)]
    session = Session()
    with live_run(Camera(lambda _: iter(pictures), waits=True), session) as run:
        summary = run.run()
    assert (summary.answered, summary.resets) == (4, 1)


def test_a_lost_source_is_an_error_behind_its_answers() -> None:
    """What came is answered, sinks are closed, and the summary is there."""

    def frames(_: Camera) -> Iterator[Picture]:
        yield from map(picture, range(3))
        raise SourceLostError("no power")

    session, sink = Session(), Sink()
    with live_run(Camera(frames, returns=False, waits=True), session, sink) as run:
        with pytest.raises(GmosError, match="test://camera was lost: no power"):
            run.run()
        assert run.summary.ended == "an error ended it"
    assert session.calls[-1] == "finish"
    assert sink.written == [0, 1, 2]
    assert sink.state == "closed"
    assert run.summary.answered == 3


def test_a_size_that_changes() -> None:
    """One line, behind what was there before."""
    pictures = [picture(0), picture(1), picture(2, (8, 8))]
    sink = Sink()
    with (
        live_run(Camera(lambda _: iter(pictures)), Session(), sink) as run,
        pytest.raises(GmosError, match="changed its size from 6x4 to 8x8 pixels"),
    ):
        run.run()
    assert sink.written == [0, 1]


def test_a_source_that_cannot_be_read() -> None:
    """The error comes before anything is loaded."""

    def refuse(_: float) -> Any:
        raise SourceLostError("refused")

    source = LiveInput(kind="test", name="camera", shown="test://camera", open=refuse)
    with (
        ReadingThread(source, ReadingOptions(), "oldest") as reading,
        pytest.raises(GmosError, match="test://camera cannot be read: refused"),
    ):
        reading.wait_for_start()


def test_a_device_that_fails() -> None:
    """The error is the session's; nothing more is asked of it, and sinks are closed."""

    def push(frame: LiveFrame) -> None:
        if frame.index == 3:
            raise GmosError("out of memory")

    session, sink = Session(), Sink()
    session.on_push = push
    endless = Camera(lambda _: map(picture, iter(range(10**9))))
    with (
        live_run(endless, session, sink) as run,
        pytest.raises(GmosError, match="out of memory"),
    ):
        run.run()
    assert session.calls == [f"push {index}" for index in range(4)]
    assert session.closed
    assert sink.written == [0, 1]
    assert sink.state == "closed"
    assert endless.closed.wait(WAIT_S)


def test_a_full_disk() -> None:
    """The run ends, the other sinks are closed too, and the source is let go."""

    def write(answer: FrameResult) -> None:
        if answer.index == 2:
            raise GmosError("no space left on the disk")

    full, other = Sink(), Sink()
    full.on_write = write
    endless, session = Camera(lambda _: map(picture, iter(range(10**9)))), Session()
    with (
        live_run(endless, session, full, other) as run,
        pytest.raises(GmosError, match="no space left"),
    ):
        run.run()
    assert (full.written, other.written) == ([0, 1], [0, 1])
    assert full.state == other.state == "left with GmosError"
    assert run.summary.answered == 2
    assert session.closed
    assert endless.closed.wait(WAIT_S)


def test_frames_are_prepared_beside_computing() -> None:
    """While the first one is computed those that wait are made ready, in another thread."""
    session, prepared, pushed = Session(), SimpleQueue[int](), []
    threads = set()

    def prepare(frame: LiveFrame) -> LiveFrame:
        threads.add(get_ident())
        prepared.put(frame.index)
        return replace(frame, pi3_rgb=frame.rgb[:1])

    def push(frame: LiveFrame) -> None:
        pushed.append((frame.index, frame.pi3_rgb is not None))
        if frame.index == 0:
            while prepared.get(timeout=WAIT_S) < 2:
                pass

    session.prepare, session.on_push = prepare, push  # type: ignore[method-assign]
    camera = Camera(lambda _: (picture(i) for i in range(6)), waits=True)
    with live_run(camera, session, Sink()) as run:
        assert run.run().answered == 6
    assert [index for index, _ in pushed] == list(range(6))
    assert all(ready for index, ready in pushed if index in {1, 2})
    assert len(threads) == 1
    assert not threads & session.threads


def test_a_reader_that_is_gone() -> None:
    """Is no fault of the run's, and its summary says so."""

    def write(answer: FrameResult) -> None:
        if answer.index == 3:
            raise BrokenPipeError

    camera = Camera(lambda _: (picture(i) for i in range(50)), waits=True)
    sink = Sink()
    sink.on_write = write
    with live_run(camera, Session(), sink) as run:
        with pytest.raises(BrokenPipeError):
            run.run()
        assert (run.summary.ended, run.summary.answered) == ("whoever read its answers is gone", 3)


def test_listeners_hear_counts_while_nothing_comes() -> None:
    """Once a second, also of a camera that hangs."""
    listener, over = Listener(), Event()

    def frames(_: Camera) -> Iterator[Picture]:
        yield picture(0)
        yield picture(1)
        assert over.wait(WAIT_S)

    listener.heard.clear()
    counted: list[int] = []
    with live_run(
        Camera(frames), Session(), listeners=(listener,), options=ReadingOptions(reset_after_s=0)
    ) as run:
        Thread(target=lambda: [listener.heard.wait(WAIT_S), over.set()]).start()
        run.run(counted.append)
    assert listener.written == [0, 1]
    first = listener.numbers[0]
    assert first["answered"] == 1
    assert first["delay_ms"] == 100
    assert set(first) == {
        *("answered", "dropped", "lost", "resets", "reconnects"),
        *("fps", "delay_ms", "memory_mib"),
    }
    assert counted[0] == 1


INTERRUPTED = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
def say(text):
    # A line at once, whichever thread writes.
    os.write(1, (text + "\\n").encode())
from gmos_deploy.interruption import answer_signals, clear_up_first, interrupted_by, Interrupted
answer_signals("test", keeps_results=True)
clear_up_first()
from test_live_run import Camera, Session, Sink, live_run, picture
hangs = threading.Event()
def frames(_):
    yield picture(0)
    yield picture(1)
    yield picture(2)
    hangs.wait(30)
session, sink = Session(), Sink()
computing = threading.Event()
def push(frame):
    if frame.index == 2:
        say("computing")
        while not interrupted_by():
            computing.wait(0.01)
        computing.wait(1)
session.on_push = push
sink.on_write = lambda answer: say(f"wrote {answer.index}")
with live_run(Camera(frames), session, sink) as run:
    try:
        run.run()
    except Interrupted:
        print(sink.state, session.closed, session.calls, run.summary.ended, run.summary.answered, flush=True)
        raise
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_sinks(number: signal.Signals) -> None:
    """While the source hangs and a network computes: waiting frames get no answer, what was written is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, os.path.dirname(__file__)],  # noqa: PTH120 - a plain folder
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        seen = {process.stdout.readline().strip() for _ in range(2)}
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert seen == {"computing", "wrote 0"}, err
    assert out.strip() == "closed True ['push 0', 'push 1', 'push 2'] interrupted 1"
    assert process.returncode == 128 + number
