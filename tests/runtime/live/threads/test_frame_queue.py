"""Two frames wait: the oldest is left out and counted, or the source waits."""

from __future__ import annotations

from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Event, Thread

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.threads.frame_queue import STALLED, Drop, Ended, FrameQueue

RGB = np.zeros((2, 2, 3), np.uint8)


def frame(index: int, *, new_sequence: bool = False, dropped_before: int = 0) -> LiveFrame:
    return LiveFrame(
        index=index,
        time_s=float(index),
        arrival_s=float(index),
        rgb=RGB,
        new_sequence=new_sequence,
        dropped_before=dropped_before,
    )


def taken(queue: FrameQueue) -> list[tuple[int, int, bool]]:
    """Number, dropped before and new sequence of all that wait, until the end."""
    found = []
    while not isinstance(got := queue.get(0.0), Ended):
        assert isinstance(got, LiveFrame)
        found.append((got.index, got.dropped_before, got.new_sequence))
    return found


def test_the_oldest_is_left_out() -> None:
    """The next frame that is kept says how many went before it."""
    queue = FrameQueue("oldest")
    for index in range(7):
        assert queue.put(frame(index))
    queue.end()
    assert taken(queue) == [(5, 5, False), (6, 0, False)]


def test_counts_of_those_that_are_left_out_add_up() -> None:
    """What was dropped before they came, too, and that a sequence began with one of them."""
    queue = FrameQueue("oldest")
    queue.put(frame(0))
    first = queue.get()
    queue.put(frame(3, dropped_before=2))
    queue.put(frame(4, new_sequence=True))
    queue.put(frame(5))
    queue.put(frame(6))
    queue.end()
    assert isinstance(first, LiveFrame)
    assert first.index == 0
    assert taken(queue) == [(5, 4, True), (6, 0, False)]


def test_what_was_dropped_before_anybody_could_answer_is_forgotten() -> None:
    """While networks are loaded."""
    queue = FrameQueue("oldest")
    for index in range(100):
        queue.put(frame(index, new_sequence=index == 50))
    queue.begin()
    queue.end()
    assert taken(queue) == [(98, 0, False), (99, 0, False)]
    FrameQueue("none").begin()


def test_the_source_waits() -> None:
    """Every frame is taken, in order, and no more than two wait."""
    queue, put = FrameQueue("none"), []

    def source() -> None:
        for index in range(50):
            assert queue.put(frame(index))
            put.append(index)
        queue.end()

    thread = Thread(target=source)
    thread.start()
    found = []
    while not isinstance(got := queue.get(10.0), Ended):
        assert isinstance(got, LiveFrame)
        found.append(got.index)
        assert len(put) <= got.index + 4
    thread.join(10)
    assert found == list(range(50))


@pytest.mark.parametrize("drop", ["none", "oldest"])
def test_the_error_comes_behind_the_frames(drop: Drop) -> None:
    """And it comes again to whoever asks again."""
    queue, error = FrameQueue(drop), RuntimeError("gone")
    queue.put(frame(0))
    queue.end(error)
    queue.end()
    assert isinstance(queue.get(), LiveFrame)
    assert queue.get() == queue.get() == Ended(error=error)


@pytest.mark.parametrize("drop", ["none", "oldest"])
def test_stopped(drop: Drop) -> None:
    """Nothing is taken or put any more, and nobody waits."""
    queue = FrameQueue(drop)
    queue.put(frame(0))
    queue.put(frame(1))
    putting = Thread(target=lambda: [queue.put(frame(2)), queue.put(frame(3))])
    putting.start()
    queue.stop()
    putting.join(10)
    assert not putting.is_alive()
    assert queue.get() == Ended(stopped=True)
    assert not queue.put(frame(4))


def test_whoever_waits_for_a_frame_is_woken() -> None:
    """By the end."""
    queue, got = FrameQueue("oldest"), []
    waiting = Thread(target=lambda: got.append(queue.get()))
    waiting.start()
    queue.stop()
    waiting.join(10)
    assert got == [Ended(stopped=True)]


def test_a_stall_is_counted_from_the_last_frame_that_came() -> None:
    """However long computing took meanwhile: whoever asks does not wait again."""
    now = [100.0]
    queue = FrameQueue("oldest", clock=lambda: now[0])
    queue.put(frame(0))
    assert isinstance(queue.get(2.0), LiveFrame)
    now[0] = 103.0
    assert queue.get(2.0) is STALLED
    queue.put(frame(1))
    now[0] = 110.0
    assert isinstance(queue.get(2.0), LiveFrame)


def prepared(frame: LiveFrame) -> LiveFrame:
    return replace(frame, pi3_rgb=np.full((3, 1, 1), frame.index, np.uint8))


def pi3_of(got: object) -> int | None:
    """Which frame's Pi3 version came with a frame; None: none did."""
    assert isinstance(got, LiveFrame)
    assert got.pi3_rgb is None or got.index == got.pi3_rgb[0, 0, 0]
    return None if got.pi3_rgb is None else got.index


def test_frames_are_prepared_while_they_wait() -> None:
    """By a thread of its own. One that is left out is not waited for, nor does what was counted for it get lost."""
    queue, begun, go_on = FrameQueue("oldest"), SimpleQueue(), Event()

    def prepare(frame: LiveFrame) -> LiveFrame:
        begun.put(frame.index)
        assert go_on.wait(10)
        return prepared(frame)

    thread = Thread(target=queue.prepare_all, args=(prepare,))
    thread.start()
    queue.put(frame(0, new_sequence=True))
    assert begun.get(timeout=10) == 0
    for index in (1, 2):
        queue.put(frame(index))
    go_on.set()
    assert [begun.get(timeout=10), begun.get(timeout=10)] == [1, 2]
    queue.end()
    thread.join(10)
    first, second = queue.get(), queue.get()
    assert (pi3_of(first), pi3_of(second)) == (1, 2)
    assert isinstance(first, LiveFrame)
    assert (first.dropped_before, first.new_sequence) == (1, True)


def test_a_frame_that_is_being_prepared_is_waited_for() -> None:
    """And one that nobody has begun on is given as it came: it is not waited for."""
    queue, begun, go_on, got = FrameQueue("none"), Event(), Event(), SimpleQueue()

    def prepare(frame: LiveFrame) -> LiveFrame:
        begun.set()
        assert go_on.wait(10)
        return prepared(frame)

    threads = [
        Thread(target=queue.prepare_all, args=(prepare,)),
        Thread(target=lambda: [got.put(queue.get()), got.put(queue.get())]),
    ]
    threads[0].start()
    queue.put(frame(0))
    queue.put(frame(1))
    assert begun.wait(10)
    threads[1].start()
    with pytest.raises(Empty):
        got.get(timeout=0.05)
    go_on.set()
    assert pi3_of(got.get(timeout=10)) == 0
    assert pi3_of(got.get(timeout=10)) in {1, None}
    queue.end()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    raw = FrameQueue("none")
    raw.put(frame(0))
    assert pi3_of(raw.get()) is None


def test_a_frame_that_cannot_be_prepared_is_given_as_it_came() -> None:
    """Whoever computes meets the error in its turn; the frames behind it are prepared."""
    queue = FrameQueue("none")

    def prepare(frame: LiveFrame) -> LiveFrame:
        if frame.index == 0:
            raise GmosError("another size")
        return prepared(frame)

    queue.put(frame(0))
    queue.put(frame(1))
    queue.end()
    queue.prepare_all(prepare)
    assert (pi3_of(queue.get()), pi3_of(queue.get())) == (None, 1)


def test_nothing_grows_where_nobody_prepares() -> None:
    """While networks are loaded a camera gives thousands of frames."""
    queue = FrameQueue("oldest")
    for index in range(1000):
        queue.put(frame(index))
    assert queue._raw.qsize() == 1
