"""Numbers of a stream's frames: counted, with those that the camera itself lost, and where a new sequence begins."""

from __future__ import annotations

from dataclasses import dataclass

LOST_INTERVALS = 1.5
"""A gap between time stamps that is longer than so many intervals has frames in it that were lost."""

SLOW_INTERVALS = 3.0
"""No gap of fewer intervals is a stall or a jump, however slow the source is, nor a clock that was set back."""


STILL_FRAMES = 4
"""Frames that may have the time stamp of the one before; with more the source's clock has stopped."""
STILL_INTERVALS = 0.01
"""What is less is the same time: containers have stamps grow by a tick at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """A frame's number, its time in seconds from the first frame, and whether a new sequence begins with it."""

    index: int
    time_s: float
    new_sequence: bool


class Numbering:
    """Numbers the frames of one source in the order in which they come.

    Times count from the first frame and never go back: where the source's clock jumps, stops, is set back, or begins
    anew after a loss, they go on by what the monotonic clock says; by one interval where frames are counted.

    Args:
        rate_fps: frames per second of the source.
        reset_after_s: a stall or a jump of so many seconds begins a new sequence; 0: none does.
        counted: number by counting, and begin no new sequence, whatever the times say.
        stalls: that nothing came for long is a stall; not where the source waits for its reader.
    """

    def __init__(self, *, rate_fps: float, reset_after_s: float, counted: bool, stalls: bool) -> None:
        self._interval_s = 1 / rate_fps
        least_s = SLOW_INTERVALS * self._interval_s
        self._limit_s = max(reset_after_s, least_s) if reset_after_s else float("inf")
        self._counted = counted
        self._stalls = stalls
        self._last: Numbered | None = None
        self._stamp_s: float | None = None
        self._arrival_s = 0.0
        self._still = 0
        """Frames in a row whose stamps did not grow."""
        self._zero_s = 0.0
        """What is taken from the clock in use, for times from the first frame."""

    @property
    def limit_s(self) -> float:
        """Seconds without a frame, or between time stamps, from which on a new sequence begins."""
        return self._limit_s

    def number(
        self, stamp_s: float | None, arrival_s: float, *, waited_s: float = 0.0, reconnected: bool = False
    ) -> Numbered:
        """Number the next frame.

        Args:
            stamp_s: its time by the source's clock, None where that has none.
            arrival_s: its time by the monotonic clock.
            waited_s: how long it was waited for.
            reconnected: it is the first one of another connection.
        """
        last, clock_s = self._last, arrival_s if stamp_s is None else stamp_s
        if last is None:
            self._zero_s = clock_s
            numbered = Numbered(index=0, time_s=0.0, new_sequence=False)
        else:
            stamped = stamp_s is not None and self._stamp_s is not None
            passed_s = arrival_s - self._arrival_s
            gap_s = stamp_s - self._stamp_s if stamped else passed_s  # type: ignore[operator]  # see `stamped`
            stalled = self._stalls and waited_s > self._limit_s
            new = not self._counted and (reconnected or stalled or abs(gap_s) > self._limit_s)
            # One frame that is late in its order changes no clock.
            set_back = stamped and gap_s < -SLOW_INTERVALS * self._interval_s
            self._still = self._still + 1 if stamped and gap_s < STILL_INTERVALS * self._interval_s else 0
            stopped = self._still > STILL_FRAMES
            if new or set_back or stopped or (stamp_s is None) != (self._stamp_s is None):
                # Another clock, or one that was set: go on by ours.
                on_s = self._interval_s if self._counted else max(passed_s, self._interval_s)
                self._zero_s = clock_s - (last.time_s + on_s)
            lost = stamped and not new and not self._counted and gap_s > LOST_INTERVALS * self._interval_s
            numbered = Numbered(
                index=last.index + (round(gap_s / self._interval_s) if lost else 1),
                time_s=max(last.time_s, clock_s - self._zero_s),
                new_sequence=new,
            )
        self._last, self._stamp_s, self._arrival_s = numbered, stamp_s, arrival_s
        return numbered
