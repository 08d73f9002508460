"""The time that a search may take, counted so that one that was killed ends where it would have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..runtime.progress import Advance, Progress


class OutOfTimeError(Exception):
    """The budget is spent."""


class Budget:
    """Seconds that may be spent: by this process, and before it by others whose work is taken over.

    `clock` gives seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.limit = seconds
        """Seconds at which `check` ends what runs; what follows may need the rest."""
        self._clock = clock
        self._spent = 0.0
        self._since: float | None = None

    @property
    def spent(self) -> float:
        """Seconds so far."""
        running = 0.0 if self._since is None else self._clock() - self._since
        return self._spent + running

    def spend(self, seconds: float) -> None:
        """Count what was spent on work that is there already."""
        self._spent += seconds

    @contextmanager
    def running(self) -> Iterator[Callable[[], float]]:
        """Count what is done within this; gives what says how long it has taken."""
        self._since = start = self._clock()
        try:
            yield lambda: self._clock() - start
        finally:
            self._spent += self._clock() - start
            self._since = None

    def check(self) -> None:
        """End what runs if the limit is reached.

        Raises:
            OutOfTimeError: it is.
        """
        if self.spent >= self.limit:
            raise OutOfTimeError


class WithinBudget:
    """A `Progress` that ends a run when the budget's limit is reached."""

    def __init__(self, progress: Progress, budget: Budget) -> None:
        self._progress = progress
        self._budget = budget

    @contextmanager
    def stage(self, name: str, frames: int | None) -> Iterator[Advance]:
        """See `runtime.progress.Progress`."""
        with self._progress.stage(name, frames) as inner:

            def advance(done: int) -> None:
                self._budget.check()
                inner(done)

            yield advance
