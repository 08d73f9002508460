"""Streams at the front door: a session that is pushed into, and the frames of what is finite played as a stream."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from .arguments import tells_arguments
from .errors import GmosError
from .runtime.frame_result import FrameResult
from .runtime.live.incoming import LiveFrame
from .runtime.live.numbering import Numbering
from .runtime.live.session import LiveSession, check_together, push_all
from .runtime.live.threads.frame_queue import Ended, Stalled
from .runtime.live.threads.reading_thread import ReadingThread
from .runtime.video.sequence import SequenceInput


class Session:
    """One stream on a model, for whoever owns the loop: `model.session()` opens it. Used by the model's thread.

    Close it, call `finish()`, or use it in a `with` statement; it ends with its model.

    Args:
        live: the stream.
        reset_after_s: see `Model.session`.
        require_open: raises where the model has been closed.
    """

    def __init__(
        self, live: LiveSession, *, reset_after_s: float, require_open: Callable[[], object]
    ) -> None:
        if not reset_after_s >= 0:
            raise GmosError(f"--reset_after {reset_after_s}: expected seconds from 0 up; 0 means never")
        self._live = live
        self._numbering = Numbering(
            rate_fps=live.fps, reset_after_s=reset_after_s, counted=False, stalls=False
        )
        self._require_open = require_open
        self._last: LiveFrame | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"<gmos_deploy.Session {self.name}: {width}x{height}, stride {self.stride}>"

    @property
    def name(self) -> str:
        """Of the stream, in messages."""
        return self._live.name

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of its frames in pixels."""
        return self._live.video_hw

    @property
    def stride(self) -> int:
        """Frames between neighbours of a window."""
        return self._live.stride

    @property
    def delay_frames(self) -> int:
        """How many frames later an answer comes: twice the stride."""
        return self._live.delay_frames

    @tells_arguments
    def push(self, frame: NDArray[np.uint8], time_s: float | None = None) -> list[FrameResult]:
        """Give the next frame; the answers that it completes, in order: none at first, then mostly one.

        Args:
            frame: (H, W, 3) uint8 RGB. It is kept until it is answered: do not write into it.
            time_s: its time in seconds, by any clock that runs on. Frames that a gap of more than 1.5 intervals has
                room for count as lost; a jump beyond `reset_after_s` begins a new sequence. Without it frames count one
                by one, and their times follow from the rate.

        Raises:
            GmosError: the frame cannot be used, the session has ended or its model was closed.
        """
        return self.push_all([(self, frame, time_s)])[0]

    @staticmethod
    def push_all(
        frames: Sequence[tuple[Session, NDArray[np.uint8], float | None]],
    ) -> list[list[FrameResult]]:
        """See `Model.push_all`."""
        for session, frame, time_s in frames:
            session._check(frame, time_s)
        check_together([session._live for session, _, _ in frames])
        return push_all(
            [(session._live, session._arrived(frame, time_s)) for session, frame, time_s in frames]
        )

    @tells_arguments
    def reset(self) -> list[FrameResult]:
        """Begin a new sequence with the next frame; the answers that were still waited for.

        Objects are gone, and their ids do not come back. The first answer of the new sequence has `live.reset_before`.

        Raises:
            GmosError: as `push`.
        """
        self._require_open()
        return self._live.reset()

    @tells_arguments
    def finish(self) -> list[FrameResult]:
        """End the stream; the answers that were still waited for, with windows clipped to the last frame.

        Raises:
            GmosError: as `push`.
        """
        self._require_open()
        return self._live.finish()

    def close(self) -> None:
        """End the stream without the answers that are still waited for."""
        self._live.close()

    def _check(self, frame: NDArray[np.uint8], time_s: float | None) -> None:
        self._require_open()
        if time_s is not None and not math.isfinite(time_s):
            raise GmosError(f"{self.name}: a frame's time is {time_s}; expected seconds, or None")
        if not isinstance(frame, np.ndarray):
            raise GmosError(f"a frame is a {type(frame).__name__}; expected a NumPy array (H, W, 3) of uint8")
        self._live.check_frame(frame)

    def _arrived(self, frame: NDArray[np.uint8], time_s: float | None) -> LiveFrame:
        arrival_s, before = time.monotonic(), self._last
        if time_s is None:
            time_s = 0.0 if before is None else before.time_s + 1 / self._live.fps
        numbered = self._numbering.number(time_s, arrival_s)
        self._last = LiveFrame(
            index=numbered.index,
            time_s=time_s,
            arrival_s=arrival_s,
            rgb=frame,
            dropped_before=0 if before is None else numbered.index - before.index - 1,
            new_sequence=numbered.new_sequence,
        )
        return self._last


def checked_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """The size of frames as whole numbers of pixels.

    Raises:
        GmosError: it is no pair of positive whole numbers.
    """
    try:
        height, width = map(operator.index, size_hw)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise GmosError(f"--size_hw {size_hw}: expected height and width in pixels, as in (480, 640)")
    return height, width


def played(sequence: SequenceInput) -> Generator[LiveFrame, None, None]:
    """The frames of what is finite, as a stream has them: one by one, each when it is asked for."""
    with sequence.open() as reader:
        for frame in reader:
            yield LiveFrame(index=frame.index, time_s=frame.time_s, arrival_s=time.monotonic(), rgb=frame.rgb)


def answers_from(
    reading: ReadingThread, session: LiveSession, limit_s: float
) -> Generator[FrameResult, None, None]:
    """The answers on what a thread reads, which goes on reading while they are used; the thread ends with them.

    Args:
        reading: of a live source; its first frame has come.
        session: answers.
        limit_s: without a frame for so many seconds the sequence has ended.
    """
    queue, fresh = reading.queue, False
    with reading.running(), session:
        reading.prepare_with(session.prepare)
        while not isinstance(got := queue.get(limit_s if fresh else None), Ended):
            fresh = isinstance(got, LiveFrame)
            yield from session.reset() if isinstance(got, Stalled) else session.push(got)
        if not got.stopped:
            yield from session.finish()
        if got.error is not None:
            raise got.error


def answers_to(
    frames: Generator[LiveFrame, None, None], session: LiveSession
) -> Generator[FrameResult, None, None]:
    """The answers on the frames of a source, each as soon as it is there, and at its end the last ones."""
    with closing(frames), session:
        for frame in frames:
            yield from session.push(frame)
        yield from session.finish()
