"""Where a build is, from the builder's own reports: network, phase, percent, time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from ...runtime.console_progress import LINE_INTERVAL_S

logger = logging.getLogger(__name__)

Report = Callable[[float, str], None]
"""Takes the share that is done, 0 to 1, and the phase."""

FIRST_PHASE = "Parsing"
"""Before the builder itself reports."""


@dataclass(slots=True)
class _Phase:
    name: str
    parent: str | None
    steps: int
    done: int = 0


class BuildPhases:
    """The builder's nested phases as one number that never falls. Its methods are called from any thread."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._open: list[_Phase] = []
        self._share = 0.0
        self._cancelled = False
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Make the builder stop at its next report."""
        self._cancelled = True

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins within the step that its parent is at."""
        with self._lock:
            self._open.append(_Phase(name=name, parent=parent, steps=max(1, steps)))
            self._tell()

    def step(self, name: str) -> bool:
        """A step of a phase is done; returns whether to go on."""
        with self._lock:
            phase = self._find(name)
            if phase is not None:
                phase.done = min(phase.done + 1, phase.steps)
            self._tell()
        return not self._cancelled

    def finish(self, name: str) -> None:
        """A phase is over, complete or not."""
        with self._lock:
            phase = self._find(name)
            if phase is not None:
                self._open.remove(phase)
            self._tell()

    def _find(self, name: str) -> _Phase | None:
        return next((phase for phase in reversed(self._open) if phase.name == name), None)

    def _tell(self) -> None:
        share = self._share_of(0) if self._open else 1.0
        self._share = max(self._share, share)
        if self._open:
            self._report(self._share, self._open[-1].name)

    def _share_of(self, index: int) -> float:
        phase = self._open[index]
        # Phases of the same name follow each other; only what began later can be within this one.
        inner = [
            self._share_of(later)
            for later in range(index + 1, len(self._open))
            if self._open[later].parent == phase.name
        ]
        return min(1.0, (phase.done + max(inner, default=0.0)) / phase.steps)


def progress_monitor(module: Any, phases: BuildPhases) -> Any:  # noqa: ANN401 - the library is untyped
    """An `IProgressMonitor` of the library that reports to `phases`."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # untyped base
        def __init__(self) -> None:
            # The bindings refuse a subclass whose base was not initialised this way.
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002 - the library's interface
            return phases.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


def build_progress(name: str) -> AbstractContextManager[Report]:
    """The build of an engine on stderr: a bar on a terminal, else a line in the log now and then."""
    console = Console(stderr=True)
    return terminal_build(name, console) if console.is_terminal else logged_build(name)


@contextmanager
def terminal_build(name: str, console: Console) -> Iterator[Report]:
    """A bar of an engine's build with percent, time and phase; the time goes on in long steps."""
    # One display per engine: log lines between them would break into a longer one.
    with RichProgress(
        TextColumn("{task.description:<17}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
        console=console,
    ) as bars:
        task = bars.add_task(name, total=1.0, phase=FIRST_PHASE)
        yield lambda share, phase: bars.update(task, completed=share, phase=phase)
        bars.update(task, completed=1.0, phase="done")


@contextmanager
def logged_build(name: str, interval_s: float = LINE_INTERVAL_S) -> Iterator[Report]:
    """A log line of an engine's build every ten seconds: network, percent, phase, seconds."""
    start = time.monotonic()
    latest: tuple[float, str] = (0.0, FIRST_PHASE)
    ended = threading.Event()

    def report(share: float, phase: str) -> None:
        nonlocal latest
        latest = (share, phase)

    def speak() -> None:
        # A builder can be minutes in one step: lines come by the clock, not by its reports.
        while not ended.wait(interval_s):
            share, phase = latest
            logger.info("%s: %.0f%%, %s, %.0f s", name, 100 * share, phase, time.monotonic() - start)

    speaker = threading.Thread(target=speak, name="build-progress", daemon=True)
    speaker.start()
    try:
        yield report
    finally:
        ended.set()
        speaker.join()
