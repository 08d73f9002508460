"""Progress of commands: a bar that counts what is done, and the stages of runs as gmos-run shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import printable
from ..runtime.console_progress import LineProgress, TerminalProgress


@contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of `total` items that goes away at the end; nothing where stderr is no terminal.

    Yields what to call for each item that is done.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(printable(what), total=total)
        yield lambda: bar.advance(task)


def run_progress() -> TerminalProgress | LineProgress:
    """Bars on a terminal, else a line in the log now and then."""
    console = Console(stderr=True)
    return TerminalProgress(console) if console.is_terminal else LineProgress()
