"""A source that follows a script, by a clock that only the script moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from gmos_deploy.runtime.live.sources.source import LiveInput, Picture, SourceLostError

HW = (4, 6)


class FakeClock:
    """Seconds of a monotonic clock; `pause` lets them pass and notes how many."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now_s += seconds
        return True


@dataclass(frozen=True)
class Shot:
    """A picture: its time stamp, and how long it is waited for."""

    stamp_s: float | None
    after_s: float = 0.04
    hw: tuple[int, int] = HW


Step = Shot | SourceLostError
Connection = Sequence[Step] | SourceLostError


def shots(count: int, fps: float, *, first: int = 0, stamped: bool = True) -> list[Step]:
    """Pictures at an even rate."""
    return [Shot((first + i) / fps if stamped else None, 1 / fps) for i in range(count)]


class ScriptedSource:
    """Connections one after the other; an error in place of one is that it cannot be opened."""

    def __init__(
        self, clock: FakeClock, *connections: Connection, rate_fps: float | None = 25.0, **fields: Any
    ) -> None:
        self._clock = clock
        self._connections = list(connections)
        self.rate_fps = rate_fps
        self.pixel_aspect = Fraction(1)
        self.opened = self.closed = 0
        self._steps: Sequence[Step] = ()
        self.input = LiveInput(kind="script", name="script", shown="script://host", open=self._open, **fields)

    def _open(self, timeout_s: float) -> ScriptedSource:
        self.opened += 1
        # The last one again and again.
        connection = self._connections.pop(0) if len(self._connections) > 1 else self._connections[0]
        if isinstance(connection, SourceLostError):
            raise connection
        self._steps = connection
        return self

    def __enter__(self) -> ScriptedSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1

    def __iter__(self) -> Iterator[Picture]:
        for step in self._steps:
            if isinstance(step, SourceLostError):
                raise step
            self._clock.now_s += step.after_s
            rgb = np.zeros((*step.hw, 3), np.uint8)
            yield Picture(rgb=rgb, time_s=step.stamp_s, arrival_s=self._clock.now_s)
