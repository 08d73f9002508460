"""Frames of a live source: connected, measured, numbered, and connected again where it is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..video.sequence import stride_for_fps
from .incoming import LiveFrame
from .numbering import Numbering
from .rate import measured_rate, settled_rate
from .sources.source import LiveInput, Picture, PictureReader, SourceLostError

logger = logging.getLogger(__name__)

TIMEOUT_S, RESET_AFTER_S, RECONNECT_S = 10.0, 2.0, 60.0
"""What counts where nothing else is asked for, in seconds."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
"""Between attempts to connect again: each pause is twice the one before, up to the longest."""

RATE_CHECK_S = 10.0
"""After so long what a source delivers is compared with what it states."""
RATE_SLACK = 0.1
"""Share by which it may differ without a word."""

WAITING_FRAMES = 2
"""Frames of a camera that wait for the device: longer queues only add delay where it is nearly as fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """How a source is read.

    `timeout_s`: to connect, and to wait for a picture. `reset_after_s`: a stall or a jump of the time stamps of so many
    seconds begins a new sequence; 0: none does. `reconnect_s`: how long a source that was lost is tried again; 0: it is
    not. `fps` and `stride` as given.

    Raises:
        GmosError: a value is out of range.
    """

    timeout_s: float = TIMEOUT_S
    reset_after_s: float = RESET_AFTER_S
    reconnect_s: float = RECONNECT_S
    fps: float | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < float("inf"):
            raise GmosError(f"--timeout {self.timeout_s:g}: expected a positive number of seconds")
        for name in ("reset_after", "reconnect"):
            value = getattr(self, f"{name}_s")
            # Nothing is less than "not a number".
            if not value >= 0:
                raise GmosError(f"--{name} {value:g}: expected seconds from 0 up; 0: never")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStart:
    """What is known of a stream once its first frames have come.

    `rate_fps` is that of the source: stated, given with --fps, or measured; `origin` says which. `stride` in frames.
    `limit_s`: without a frame for so many seconds, the sequence has ended.
    """

    video_hw: tuple[int, int]
    rate_fps: float
    origin: str
    stride: int
    limit_s: float
    pixel_aspect: Fraction = Fraction(1)

    def line(self) -> str:
        """For people."""
        height, width = self.video_hw
        return (
            f"{width}x{height}, {self.rate_fps:.6g} frames per second ({self.origin}), stride {self.stride}"
        )


@dataclass(slots=True)
class _Came:
    """A picture that came. `rgb` is None where it was let go while the rate was measured."""

    stamp_s: float | None
    arrival_s: float
    waited_s: float
    reconnected: bool
    rgb: NDArray[np.uint8] | None


class LiveFrames:
    """The frames of a source, one by one, as long as it lives: iterate once, and close the iterator if you stop early.

    `start` is known when the first frame comes, `reconnects` counts. Everything happens in the thread that iterates.

    Args:
        source: to read.
        options: how.
        clock: monotonic, in seconds.
        pause: waits so many seconds between attempts to connect; False: give up.
    """

    def __init__(
        self,
        source: LiveInput,
        options: ReadingOptions | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self.source = source
        self.start: StreamStart | None = None
        self.reconnects = 0
        self._options = options or ReadingOptions()
        self._clock = clock
        self._pause = pause or _sleep
        self._rate_fps: float | None = None
        self._pixel_aspect = Fraction(1)
        self._numbering: Numbering | None = None
        self._check: _RateCheck | None = None
        self._untimed = 0
        """Frames without a time of a source that waits."""

    def __iter__(self) -> Generator[LiveFrame, None, None]:
        """Frames in order.

        Raises:
            GmosError: the source cannot be opened, gives nothing, changes its size, or was lost and does not come back.
        """
        waiting: list[_Came] = []
        for came in self._pictures():
            if came.reconnected and self.start is None:
                # Another connection, with times of its own.
                waiting.clear()
            waiting.append(came)
            if self.start is not None or self._begin(waiting, ended=False):
                yield from self._numbered(waiting)
                waiting.clear()
            elif not self.source.waits and len(waiting) > WAITING_FRAMES:
                # What would be dropped anyway need not be kept until the rate is known.
                waiting[-1 - WAITING_FRAMES].rgb = None
        if waiting and self._begin(waiting, ended=True):
            yield from self._numbered(waiting)
        if self.start is None:
            raise GmosError(
                f"{self.source.shown} ended before a rate could be measured; expected --fps or --stride with it"
                if waiting
                else f"{self.source.shown} gave no picture; expected a video"
            )

    def _pictures(self) -> Iterator[_Came]:
        """Pictures of all connections."""
        outage: _Outage | None = None
        height_width: tuple[int, int] | None = None
        while True:
            try:
                with self.source.open(self._options.timeout_s) as reader:
                    self._rate_fps = self.source.rate_fps or reader.rate_fps
                    self._pixel_aspect = reader.pixel_aspect
                    for picture, waited_s in self._timed(reader):
                        height_width = self._same_size(picture.rgb, height_width)
                        reconnected, outage = self._is_back(outage), None
                        yield _Came(picture.time_s, picture.arrival_s, waited_s, reconnected, picture.rgb)
            except SourceLostError as error:  # noqa: PERF203 - once a connection
                outage = self._lost(outage, str(error), seen=height_width is not None)
                if outage is None:
                    return
            else:
                return

    def _timed(self, reader: PictureReader) -> Iterator[tuple[Picture, float]]:
        pictures = iter(reader)
        while True:
            asked_s = self._clock()
            picture = next(pictures, None)
            if picture is None:
                return
            yield picture, max(0.0, picture.arrival_s - asked_s)

    def _same_size(self, rgb: NDArray[np.uint8], known_hw: tuple[int, int] | None) -> tuple[int, int]:
        video_hw = (rgb.shape[0], rgb.shape[1])
        if known_hw is not None and video_hw != known_hw:
            raise GmosError(
                f"{self.source.shown} changed its size from {known_hw[1]}x{known_hw[0]} to {video_hw[1]}x{video_hw[0]} "
                "pixels; expected one size; start again for the new one"
            )
        return video_hw

    def _lost(self, outage: _Outage | None, reason: str, *, seen: bool) -> _Outage | None:
        """What goes on after a loss; None where reading was stopped meanwhile.

        Raises:
            GmosError: it is not tried again.
        """
        shown, limit_s = self.source.shown, self._options.reconnect_s
        if not seen:
            raise GmosError(
                f"{shown} cannot be read: {reason}; expected a source that is there and sends video"
            )
        if not self.source.returns or not limit_s:
            raise GmosError(f"{shown} was lost: {reason}")
        now_s = self._clock()
        if outage is None:
            outage = _Outage(began_s=now_s, pause_s=FIRST_PAUSE_S)
            logger.warning("%s was lost: %s; connecting again for %g s", shown, reason, limit_s)
        left_s = outage.began_s + limit_s - now_s
        if left_s <= 0:
            raise GmosError(f"{shown} was lost and has not come back for {limit_s:g} s: {reason}")
        if not self._pause(min(outage.pause_s, left_s)):
            return None
        outage.pause_s = min(2 * outage.pause_s, LONGEST_PAUSE_S)
        return outage

    def _is_back(self, outage: _Outage | None) -> bool:
        if outage is None:
            return False
        self.reconnects += 1
        logger.info("%s is back after %.1f s", self.source.shown, self._clock() - outage.began_s)
        return True

    def _begin(self, waiting: list[_Came], *, ended: bool) -> bool:
        """Settle the rate, if it can be known by now."""
        options, stride = self._options, self.source.stride or self._options.stride
        rate_fps, origin = self._rate_fps, "stated"
        if rate_fps is None and options.fps is not None:
            rate_fps, origin = options.fps, "given"
        if rate_fps is None:
            arrivals = any(came.stamp_s is None for came in waiting)
            if arrivals and self.source.waits and stride is None:
                raise GmosError(
                    f"{self.source.shown} states no frame rate, and its frames have no times; give --fps or --stride"
                )
            times_s = [came.arrival_s if arrivals else came.stamp_s or 0.0 for came in waiting]
            measured = measured_rate(times_s, ended=ended)
            if measured is None and not (ended and stride is not None and waiting):
                return False
            rate_fps, origin = settled_rate(measured or 1.0), "measured"
        # As for files: --stride before --fps before the source's own rate.
        stride = stride or stride_for_fps(options.fps or round(rate_fps, 2) or rate_fps)
        last = waiting[-1].rgb
        if last is None:
            raise RuntimeError("the last picture is kept")
        self._numbering = Numbering(
            rate_fps=rate_fps,
            reset_after_s=options.reset_after_s,
            counted=self.source.counted,
            stalls=not self.source.waits,
        )
        self.start = StreamStart(
            video_hw=(last.shape[0], last.shape[1]),
            rate_fps=rate_fps,
            origin=origin,
            stride=stride,
            limit_s=float("inf") if self.source.waits else self._numbering.limit_s,
            pixel_aspect=self._pixel_aspect,
        )
        if not self.source.counted and not self.source.waits and options.stride is None:
            self._check = _RateCheck(self.source.shown, options.fps or rate_fps, waiting[0].arrival_s)
        return True

    def _numbered(self, waiting: list[_Came]) -> Iterator[LiveFrame]:
        if self._numbering is None:
            raise RuntimeError("frames are numbered when the rate is known")
        dropped, new = 0, False
        for came in waiting:
            if came.stamp_s is None and self.source.waits and self.start is not None:
                # When it comes says nothing of a source that waits.
                came.stamp_s = self._untimed / self.start.rate_fps
                self._untimed += 1
            if self._check is not None and came.reconnected:
                self._check.restart(came.arrival_s)
            numbered = self._numbering.number(
                came.stamp_s, came.arrival_s, waited_s=came.waited_s, reconnected=came.reconnected
            )
            if self._check is not None and self._check.is_done(came.arrival_s):
                self._check = None
            new = new or numbered.new_sequence
            if came.rgb is None:
                dropped += 1
                continue
            yield LiveFrame(
                index=numbered.index,
                time_s=numbered.time_s,
                arrival_s=came.arrival_s,
                rgb=came.rgb,
                dropped_before=dropped,
                new_sequence=new,
            )
            dropped, new = 0, False


@dataclass(slots=True)
class _Outage:
    """A loss: when it began, and the pause before the next attempt."""

    began_s: float
    pause_s: float


class _RateCheck:
    """Says once where a source delivers frames at another rate than the one that counts."""

    def __init__(self, shown: str, rate_fps: float, start_s: float) -> None:
        self._shown = shown
        self._rate_fps = rate_fps
        self.restart(start_s)

    def restart(self, start_s: float) -> None:
        """Count from now on."""
        self._start_s = start_s
        self._frames = 0

    def is_done(self, arrival_s: float) -> bool:
        """Count a frame; whether this was the last one."""
        self._frames += 1
        passed_s = arrival_s - self._start_s
        if passed_s < RATE_CHECK_S:
            return False
        delivered_fps = (self._frames - 1) / passed_s
        if abs(delivered_fps - self._rate_fps) > RATE_SLACK * self._rate_fps:
            logger.warning(
                "%s delivers %.3g frames per second, and the stride is that of %.3g; if that stays so, give --fps %.3g",
                self._shown,
                delivered_fps,
                self._rate_fps,
                delivered_fps,
            )
        return True


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True
