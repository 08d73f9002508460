"""The bounded queue between reading and computing: it drops its oldest frame, or makes the source wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..incoming import LiveFrame
from ..reading import WAITING_FRAMES

Drop = Literal["none", "oldest"]

Prepared = SimpleQueue[NDArray[np.uint8] | None]


@dataclass(slots=True)
class _Waiting:
    """A frame that waits; `prepared` gets its Pi3 version, or None, from the thread that has begun on that."""

    frame: LiveFrame
    prepared: Prepared | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """No more frames come: the source has ended, failed with an error, or the run was stopped."""

    error: BaseException | None = None
    stopped: bool = False


class Stalled:
    """No frame has come for as long as was asked."""


STALLED: Final = Stalled()


class FrameQueue:
    """At most two frames that wait. One thread puts, another one gets; whichever thread may stop it.

    A third one may prepare frames while they wait, which changes nothing in how many wait and which are left out.

    Args:
        drop: "oldest": a frame that finds the queue full takes the place of the oldest one; "none": it waits.
        clock: monotonic, in seconds.
    """

    def __init__(self, drop: Drop, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.drop: Drop = drop
        self._clock = clock
        self._frames: deque[_Waiting] = deque()
        self._lock = Lock()
        """Of the deque. Only the three threads take it: a signal in the main thread could leave it locked."""
        # Queues that are C code, as in `runtime/video/prefetch.py`.
        self._ready: SimpleQueue[bool] = SimpleQueue()
        """A True for each frame that waits, and False when there will be no more."""
        self._room: SimpleQueue[bool] = SimpleQueue()
        """Where frames wait, a True for each that may be put, and False when none may."""
        for _ in range(WAITING_FRAMES):
            self._room.put(True)
        self._raw: SimpleQueue[bool] = SimpleQueue()
        """At most one True, where frames have come since it was taken; False when no more do."""
        self._end: Ended | None = None
        self._last_s: float | None = None

    def put(self, frame: LiveFrame) -> bool:
        """Add a frame; False when nobody takes it any more.

        What was dropped before it, and that a new sequence begins, is passed on to the frame that is kept.
        """
        if self.drop == "none" and not self._room.get():
            # For whoever puts again.
            self._room.put(False)
        if self._end is not None:
            return False
        replaced = False
        with self._lock:
            if self.drop == "oldest" and len(self._frames) == WAITING_FRAMES:
                replaced = True
                gone = self._frames.popleft()
                after = self._frames.popleft()
                after.frame = replace(
                    after.frame,
                    dropped_before=after.frame.dropped_before + gone.frame.dropped_before + 1,
                    new_sequence=after.frame.new_sequence or gone.frame.new_sequence,
                )
                self._frames.appendleft(after)
            self._frames.append(_Waiting(frame))
            self._last_s = self._clock()
        if not replaced:
            self._ready.put(True)
        if self._raw.empty():
            self._raw.put(True)
        return True

    def begin(self) -> None:
        """Forget what was dropped until now, while nobody could have answered."""
        with self._lock:
            if self._frames:
                first = self._frames[0]
                first.frame = replace(first.frame, dropped_before=0, new_sequence=False)

    def prepare_all(self, prepare: Callable[[LiveFrame], LiveFrame]) -> None:
        """Prepare frames while they wait, until no more come; for a thread of its own.

        Whoever gets a frame that is being prepared waits for it; one that is not yet begun is given as it came.
        """
        while self._raw.get():
            while (begun := self._begin_one()) is not None:
                frame, prepared = begun
                found = frame
                try:
                    found = prepare(frame)
                except BaseException:  # noqa: BLE001, S110 - whoever computes prepares it, and meets the same error
                    pass
                finally:
                    prepared.put(found.pi3_rgb)

    def _begin_one(self) -> tuple[LiveFrame, Prepared] | None:
        """The oldest frame that nobody prepares yet, and where its Pi3 version is to be put."""
        with self._lock:
            for waiting in self._frames:
                if waiting.prepared is None:
                    waiting.prepared = SimpleQueue()
                    return waiting.frame, waiting.prepared
        return None

    def get(self, patience_s: float | None = None) -> LiveFrame | Stalled | Ended:
        """The oldest frame that waits, as soon as there is one.

        Args:
            patience_s: after so many seconds in which none has come, `STALLED`; None: wait.
        """
        try:
            self._ready.get(timeout=self._left_s(patience_s))
        except Empty:
            return STALLED
        with self._lock:
            waiting = self._frames.popleft() if self._frames and not self._stopped() else None
        if waiting is None:
            # For whoever asks again.
            self._ready.put(False)
            return self._end or Ended(stopped=True)
        if self.drop == "none":
            self._room.put(True)
        if waiting.prepared is None:
            return waiting.frame
        return replace(waiting.frame, pi3_rgb=waiting.prepared.get())

    def _left_s(self, patience_s: float | None) -> float | None:
        if patience_s is None or patience_s == float("inf"):
            return None
        passed_s = 0.0 if self._last_s is None else self._clock() - self._last_s
        return max(0.0, patience_s - passed_s)

    def _stopped(self) -> bool:
        return self._end is not None and self._end.stopped

    def end(self, error: BaseException | None = None) -> None:
        """No more frames come; those that wait are still taken, and then the error is."""
        if self._end is None:
            self._end = Ended(error=error)
            self._ready.put(False)
            self._raw.put(False)

    def stop(self) -> None:
        """Nobody takes frames any more, and nobody waits. Safe in a thread that a signal may interrupt."""
        self._end = Ended(stopped=True)
        self._ready.put(False)
        self._raw.put(False)
        self._room.put(False)
