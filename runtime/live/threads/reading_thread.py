"""The thread that reads a live source into the queue, from before networks are loaded, and one that prepares there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from queue import Empty, SimpleQueue
from threading import Thread

from ..incoming import LiveFrame
from ..reading import LiveFrames, ReadingOptions, StreamStart
from ..sources.source import LiveInput
from .frame_queue import Drop, FrameQueue

LEAVE_S = 1.0
"""Seconds that a read may take to notice that it is no longer wanted; after that it is left to end by itself."""


class ReadingThread:
    """Reads a source; a context manager that starts the thread and stops it.

    Args:
        source: to read.
        options: how.
        drop: what becomes of frames that come too fast.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        source: LiveInput,
        options: ReadingOptions,
        drop: Drop,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue = FrameQueue(drop, clock=clock)
        self.frames = LiveFrames(source, options, clock=clock, pause=self._pause)
        self._started: SimpleQueue[BaseException | None] = SimpleQueue()
        self._stop: SimpleQueue[None] = SimpleQueue()
        # A daemon: a read that hangs in the system must not keep the process alive.
        self._thread = Thread(target=self._read, name="read live", daemon=True)
        self._preparing: Thread | None = None

    def __enter__(self) -> ReadingThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the thread, as far as the system lets it."""
        self.queue.stop()
        self._stop.put(None)
        self._thread.join(LEAVE_S)
        if self._preparing is not None:
            self._preparing.join(LEAVE_S)

    def prepare_with(self, prepare: Callable[[LiveFrame], LiveFrame]) -> None:
        """From now on frames are prepared while they wait, by a thread that ends with this one."""
        preparing = Thread(target=self.queue.prepare_all, args=(prepare,), name="prepare live", daemon=True)
        preparing.start()
        self._preparing = preparing

    @contextmanager
    def running(self) -> Iterator[None]:
        """Stop it at the end of the block, where it was started before."""
        try:
            yield
        finally:
            self.stop()

    def wait_for_start(self) -> StreamStart:
        """What is known of the stream, once its first frames have come.

        Raises:
            GmosError: it cannot be read.
        """
        error = self._started.get()
        if error is not None:
            raise error
        if self.frames.start is None:
            raise RuntimeError("a source without a frame is an error")
        return self.frames.start

    def _pause(self, seconds: float) -> bool:
        try:
            self._stop.get(timeout=seconds)
        except Empty:
            return True
        return False

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            with closing(iter(self.frames)) as frames:
                told = False
                for frame in frames:
                    if not told:
                        self._started.put(None)
                        told = True
                    if not self.queue.put(frame):
                        break
        except BaseException as caught:  # noqa: BLE001 - not swallowed: whoever takes the frames raises it
            error = caught
        self.queue.end(error)
        self._started.put(error)
