"""A live run: reading, computing and writing in threads of their own, until the source ends or a signal comes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol

import psutil

from ...frame_result import FrameResult
from ...progress import Advance
from ..incoming import LiveFrame, LiveSink
from .frame_queue import Ended, Stalled
from .live_summary import LiveCounts, LiveSummary
from .reading_thread import ReadingThread
from .writing_thread import Listener, WritingThread

logger = logging.getLogger(__name__)

TELL_S = 1.0
"""Seconds between counts for those who listen."""

MIB = 1 << 20


class StreamSession(Protocol):
    """What answers frames: `session.LiveSession`."""

    delay_frames: int

    def prepare(self, frame: LiveFrame) -> LiveFrame:
        """The frame with its Pi3 version; in any thread."""

    def push(self, frame: LiveFrame) -> list[FrameResult]:
        """Take a frame; the answers that it completes."""

    def reset(self) -> list[FrameResult]:
        """End this sequence; the answers that waited."""

    def finish(self) -> list[FrameResult]:
        """End the stream; the answers that waited."""

    def close(self) -> None:
        """Drop everything that is held."""


class LiveRun:
    """One stream through one session, its answers into sinks. Nothing of it happens in the thread that runs it.

    So a signal there is answered at once: files are closed, however long a network takes.

    Args:
        reading: of the source; it has been started, and its first frame has come.
        session: answers the frames; used by one thread, and closed there. Another one prepares frames that wait.
        sinks: take the answers; opened and closed by one thread.
        listeners: hear every answer too, and once a second what has happened so far.
        free_bytes: tells how much device memory is free; None where networks run in host memory.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        reading: ReadingThread,
        session: StreamSession,
        sinks: Sequence[LiveSink],
        *,
        listeners: Sequence[Listener] = (),
        free_bytes: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        start = reading.wait_for_start() if reading.frames.start is None else reading.frames.start
        source = reading.frames.source
        self.summary = LiveSummary(
            name=source.name,
            source=source.shown,
            kind=source.kind,
            video_hw=start.video_hw,
            rate_fps=start.rate_fps,
            rate_origin=start.origin,
            stride=start.stride,
            delay_frames=session.delay_frames,
            drop=reading.queue.drop,
        )
        self._reading = reading
        self._session = session
        self._limit_s = start.limit_s
        self._clock = clock
        self._counts = LiveCounts(None if source.waits else session.delay_frames / start.rate_fps)
        self._over: SimpleQueue[None] = SimpleQueue()
        self._writing = WritingThread(sinks, listeners, lambda: self._over.put(None))
        self._computing = Thread(target=self._compute, name="compute live", daemon=True)
        self._error: BaseException | None = None
        self._free_bytes = free_bytes
        self._free: list[int] = []
        """Device memory that was free at first, and least so far."""
        self._looked_s = 0.0
        self._began_s = self._clock()

    def run(self, advance: Advance = lambda _: None) -> LiveSummary:
        """Answer frames until the source ends.

        Args:
            advance: called once a second with the number of answers since the call before.

        Raises:
            GmosError: the source, the device or a sink fails. What was written by then is closed, and `summary` tells
                what happened, as it does when this thread is interrupted.
        """
        self._reading.queue.begin()
        self._began_s = self._clock()
        try:
            # Interrupted while they begin, they end as they do later.
            self._writing.start()
            self._reading.prepare_with(self._session.prepare)
            self._computing.start()
            told = 0
            while not self._is_over():
                self._writing.tell(self.counts())
                answered = self._counts.answered
                advance(answered - told)
                told = answered
            self.summary.ended = "the source ended"
        finally:
            self._reading.queue.stop()
            # Sinks are closed before a network that still computes is waited for.
            self._writing.end()
            self._writing.join()
            if self._computing.ident is not None:
                self._computing.join()
            self._sum_up()
        error = self._writing.error or self._error
        if error is not None:
            closed = isinstance(error, BrokenPipeError)
            self.summary.ended = "whoever read its answers is gone" if closed else "an error ended it"
            raise error
        return self.summary

    def counts(self) -> dict[str, Any]:
        """What has happened so far: counts, answers per second of late, milliseconds of delay, MiB of host memory."""
        counts = self._counts
        return {
            "answered": counts.answered,
            "dropped": counts.dropped,
            "lost": counts.lost,
            "resets": counts.resets,
            "reconnects": self._reading.frames.reconnects,
            "fps": round(counts.recent_fps(self._clock()), 2),
            "delay_ms": round(1e3 * counts.last_delay_s, 1),
            "memory_mib": round(psutil.Process().memory_info().rss / MIB, 1),
        }

    def _is_over(self) -> bool:
        try:
            self._over.get(timeout=TELL_S)
        except Empty:
            return False
        return True

    def _sum_up(self) -> None:
        summary, counts = self.summary, self._counts
        summary.seconds = self._clock() - self._began_s
        # Of an interrupted run one may have come too late.
        summary.answered, summary.moving = self._writing.written, counts.moving
        summary.dropped, summary.lost, summary.resets = counts.dropped, counts.lost, counts.resets
        summary.reconnects = self._reading.frames.reconnects
        summary.fps = summary.answered / summary.seconds if summary.seconds else 0.0
        summary.latency_ms = counts.latency.percentiles_ms()
        summary.beyond_delay_ms = counts.beyond.percentiles_ms()
        if self._free:
            summary.device_taken_mib = round((self._free[0] - self._free[-1]) / MIB, 1)
        found: Mapping[str, int] = getattr(self._session, "not_finite", {})
        summary.not_finite = dict(found)

    def _compute(self) -> None:
        """The computing thread: nothing but the session, and the queues on both sides."""
        queue, session = self._reading.queue, self._session
        fresh = False
        try:
            self._look_at_memory()
            while not isinstance(got := queue.get(self._limit_s if fresh else None), Ended):
                fresh = isinstance(got, LiveFrame)
                if isinstance(got, Stalled):
                    logger.warning(
                        "%s: nothing came for %.1f s; what comes next is a new sequence",
                        self.summary.source,
                        self._limit_s,
                    )
                    passed_on = self._pass_on(session.reset(), None)
                else:
                    self._counts.took(got)
                    # Those that a new sequence ends waited for no frame.
                    passed_on = self._pass_on(session.push(got), None if got.new_sequence else got)
                if not passed_on:
                    return
                self._look_at_memory()
            if not got.stopped:
                self._pass_on(session.finish(), None)
            self._error = got.error
        except BaseException as caught:  # noqa: BLE001 - not swallowed: `run` raises it
            self._error = caught
        finally:
            session.close()
            self._writing.end()

    def _pass_on(self, answers: Sequence[FrameResult], completing: LiveFrame | None) -> bool:
        for answer in answers:
            self._counts.gave(answer, completing)
            if not self._writing.put(answer):
                return False
        return True

    def _look_at_memory(self) -> None:
        """In the thread that computes, as the device in use is a setting of each."""
        now_s = self._clock()
        if self._free_bytes is None or (self._free and now_s - self._looked_s < TELL_S):
            return
        self._looked_s, free = now_s, self._free_bytes()
        self._free = [self._free[0] if self._free else free, min([free, *self._free[1:]])]
