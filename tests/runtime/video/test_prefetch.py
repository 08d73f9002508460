"""The background queue: order, bounds, errors and early ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.video.prefetch import Prefetched


def identity(value: int) -> int:
    """No transform."""
    return value


@pytest.mark.parametrize("depth", [1, 2, 7, 100])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("slow_side", ["producer", "transform", "consumer", "neither"])
def test_everything_arrives_once_and_in_order(depth: int, workers: int, slow_side: str) -> None:
    """Whichever side is slow."""

    def source() -> Iterator[int]:
        for value in range(20):
            if slow_side == "producer":
                time.sleep(0.001)
            yield value

    def square(value: int) -> int:
        # Later items are faster, so that several workers finish out of order.
        if slow_side == "transform":
            time.sleep(0.001 * (20 - value) / 10)
        return value * value

    received = []
    with Prefetched(source(), depth=depth, transform=square, workers=workers) as items:
        for item in items:
            if slow_side == "consumer":
                time.sleep(0.001)
            received.append(item)
    assert received == [value * value for value in range(20)]


def test_at_most_depth_items_wait() -> None:
    """Memory is bounded: nothing more is even read from the source."""
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for value in range(100):
            pulled += 1
            yield value

    with Prefetched(source(), depth=3, transform=identity) as items:
        deadline = time.monotonic() + 5
        while pulled < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert pulled == 3
        assert next(items) == 0
        while pulled < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert pulled == 4


@pytest.mark.parametrize("place", ["source", "transform"])
def test_errors_come_after_the_results_before_them(place: str) -> None:
    """An error is the consumer's, the same object, once; then the iteration is over."""
    error = GmosError("frame 3 is damaged")

    def source() -> Iterator[int]:
        for value in range(10):
            if place == "source" and value == 3:
                raise error
            yield value

    def transform(value: int) -> int:
        if place == "transform" and value == 3:
            raise error
        return value

    received = []
    with Prefetched(source(), depth=5, transform=transform) as items:
        with pytest.raises(GmosError) as caught:
            received.extend(items)
        assert caught.value is error
        assert list(items) == []
        assert list(items) == []
    assert received == [0, 1, 2]


@pytest.mark.parametrize("ending", [KeyboardInterrupt, ValueError, None])
def test_an_early_end_stops_the_thread(ending: type[BaseException] | None) -> None:
    """Leaving the block ends the thread, and the source cleans up there."""
    cleaned: list[str] = []

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            cleaned.append(threading.current_thread().name)

    before = threading.active_count()

    def consume() -> None:
        with Prefetched(source(), depth=2, transform=identity) as items:
            next(items)
            if ending is not None:
                raise ending

    if ending is None:
        consume()
    else:
        with pytest.raises(ending):
            consume()
    assert threading.active_count() == before
    assert cleaned == ["prefetch"]


def test_closing_wakes_a_waiting_consumer() -> None:
    """A consumer in another thread does not hang, and does not take the end for the end of the video."""
    release = threading.Event()
    outcome: list[BaseException] = []

    def source() -> Iterator[int]:
        release.wait(5)
        yield 1

    items = Prefetched(source(), depth=1, transform=identity)

    def consume() -> None:
        try:
            next(items)
        except RuntimeError as error:
            outcome.append(error)

    with items:
        consumer = threading.Thread(target=consume)
        consumer.start()
        closer = threading.Thread(target=items.close)
        closer.start()
        consumer.join(5)
        release.set()
        closer.join(5)
    assert not consumer.is_alive()
    assert "closed" in str(outcome[0])


def test_misuse_is_an_error() -> None:
    """Not entered, or already left: an empty video would be the wrong answer."""
    items = Prefetched([1], depth=1, transform=identity)
    with pytest.raises(RuntimeError, match="never entered"):
        next(items)
    with items:
        assert list(items) == [1]
    with pytest.raises(RuntimeError, match="closed"):
        next(items)
    with pytest.raises(GmosError, match="depth 0 with 1 workers: expected at least 1 of each"):
        Prefetched([1], depth=0, transform=identity)
    with pytest.raises(GmosError, match="depth 1 with 0 workers: expected at least 1 of each"):
        Prefetched([1], depth=1, transform=identity, workers=0)


def test_closing_before_entry_is_harmless() -> None:
    """A clean-up path may close what was never started."""
    Prefetched([1], depth=1, transform=identity).close()


def test_workers_run_at_the_same_time() -> None:
    """Two transforms that wait for each other both finish."""
    meeting = threading.Barrier(2, timeout=5)

    def meet(value: int) -> int:
        meeting.wait()
        return value

    with Prefetched(range(6), depth=4, transform=meet, workers=2) as items:
        assert list(items) == list(range(6))


def test_a_slow_transform_loses_nothing() -> None:
    """Nothing is lost or given twice when the transform is slower than the consumer."""
    release = threading.Event()

    def wait(value: int) -> int:
        release.wait(5)
        return value

    with Prefetched(range(3), depth=2, transform=wait) as items:
        threading.Timer(0.02, release.set).start()
        assert [next(items), next(items), next(items)] == [0, 1, 2]
        with pytest.raises(StopIteration):
            next(items)


def test_ctrl_c_cannot_land_on_a_lock_that_is_held_and_not_yet_to_be_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Entering a Condition is Python code: an interrupt in it leaves the lock taken, and the threads wait for ever."""
    entered, consumer = threading.Condition.__enter__, threading.get_ident()

    def interrupted(self: threading.Condition) -> bool:
        if threading.get_ident() == consumer:
            raise KeyboardInterrupt
        return entered(self)

    with Prefetched(range(5), depth=2, transform=identity) as items:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Condition, "__enter__", interrupted)
            received = list(items)
        assert received == list(range(5))
