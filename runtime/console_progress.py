"""Progress of a run on a terminal, or as a line now and then where there is none."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from ..errors import printable
from .progress import Advance

logger = logging.getLogger(__name__)

LINE_INTERVAL_S = 10.0
"""Seconds between lines where nobody watches a terminal."""


FRAMES = "frames"
"""The unit of a bar that tells no other."""


class FramesPerSecond(ProgressColumn):
    """The stage's speed."""

    def render(self, task: Task) -> Text:
        """See `rich.progress.ProgressColumn`."""
        known = task.speed and task.fields.get("unit", FRAMES) == FRAMES
        return Text(f"{task.speed:.1f} frames/s" if known else "", style="progress.data.speed")


class TerminalProgress:
    """A bar per stage: done, frames per second, time left. A context manager.

    Args:
        console: of a terminal.
        several: there may be very many sequences: bars of stages go when these have ended.
    """

    def __init__(self, console: Console, *, several: bool = False) -> None:
        self._several = several
        self._overall: TaskID | None = None
        self._bars = RichProgress(
            # Names are no markup: "[abc]" is a part of one.
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            FramesPerSecond(),
            TimeRemainingColumn(),
            console=console,
            # What is piped on is not drawn above the bars.
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    @contextmanager
    def stage(self, name: str, frames: int | None) -> Iterator[Advance]:
        """See `runtime.progress.Progress`."""
        task = self._bars.add_task(printable(name), total=frames)
        yield lambda done: self._bars.advance(task, done)
        # The estimate of a file's index may have been off; what was done is the truth.
        finished = next(known.completed for known in self._bars.tasks if known.id == task)
        self._bars.update(task, total=finished)
        if self._several:
            self._bars.remove_task(task)

    def overall(self, done: int, total: int, remark: str) -> None:
        """Show how many sequences are done."""
        if self._overall is None:
            self._overall = self._bars.add_task("", total=total, unit="sequences")
        self._bars.update(self._overall, completed=done, description=f"sequences{remark}")


class LineProgress:
    """A log line every ten seconds of a stage: done, frames per second, time left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing to release."""

    @contextmanager
    def stage(self, name: str, frames: int | None) -> Iterator[Advance]:
        """See `runtime.progress.Progress`."""
        start = last = self._clock()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            now = self._clock()
            if done and now - last >= LINE_INTERVAL_S:
                last = now
                rate = done / (now - start)
                known = f" of {frames}, {max(0, frames - done) / rate:.0f} s left" if frames else ""
                logger.info("%s: %d frames%s, %.2f frames/s", name, done, known, rate)

        yield advance
