"""Progress over a whole list: done of all, frames per second, time left; and the stages of the sequence in hand."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

from rich.console import Console

from ..runtime.console_progress import LINE_INTERVAL_S, LineProgress, TerminalProgress
from ..runtime.progress import Advance
from .statuses import SequenceSummary

logger = logging.getLogger(__name__)

MINUTE_S = 60


class ListProgress:
    """Of the sequences of a list, as they end; a `Progress` for the stages of each. A context manager.

    Args:
        total: sequences.
        quiet: lines, not bars, whatever stderr is.
        clock: seconds.
    """

    def __init__(
        self, total: int, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total = total
        self._clock = clock
        console = Console(stderr=True)
        bars = console.is_terminal and not quiet
        self._shown = TerminalProgress(console, several=total > 1) if bars else LineProgress()
        self._open = ExitStack()
        self._done = self._failed = self._ran = self._frames = 0
        self._start = self._last = clock()

    def __enter__(self) -> ListProgress:
        self._open.enter_context(self._shown)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    @contextmanager
    def stage(self, name: str, frames: int | None) -> Iterator[Advance]:
        """See `runtime.progress.Progress`."""
        with self._shown.stage(name, frames) as advance:
            yield advance

    def ended(self, summary: SequenceSummary) -> None:
        """A sequence has ended."""
        if not self._ran:
            # What was skipped before says nothing about the time left.
            self._start = max(self._start, self._clock() - sum(summary.stage_s.values()))
        self._done += 1
        self._failed += summary.status == "failed"
        self._ran += summary.status != "skipped"
        self._frames += summary.frames
        if self.total < 2:
            return
        if isinstance(self._shown, TerminalProgress):
            self._shown.overall(self._done, self.total, self.speed())
            return
        now = self._clock()
        if now - self._last >= LINE_INTERVAL_S or self._done == self.total:
            self._last = now
            logger.info("%d of %d sequences%s%s", self._done, self.total, self.speed(), self.left())

    def speed(self) -> str:
        """Failures, and frames per second."""
        seconds = self._clock() - self._start
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{failed}, {self._frames / seconds:.2f} frames/s" if self._ran and seconds > 0 else failed

    def left(self) -> str:
        """The time that the rest takes, if it is like what was run so far."""
        if not self._ran:
            return ""
        return f", {_duration((self._clock() - self._start) / self._ran * (self.total - self._done))} left"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < MINUTE_S:
        return f"{whole} s"
    hours, minutes = divmod(round(seconds / MINUTE_S), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
