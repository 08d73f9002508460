"""What SIGINT, SIGTERM and SIGHUP do to a command: it clears up, says so in one line, and ends with 128 and the number.

Imports next to nothing: a command's entry point calls `answer_signals` before anything else.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNAL_STATUS = 128
"""Added to the number of a signal, as shells count."""

REPEATED_S = 1.0
"""Signals that follow within this time are one wish: terminals and wrappers send several. A later one ends at once."""

ANSWERED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)

SHOW_CURSOR = b"\x1b[?25h"
"""A progress bar has hidden it."""


class Interrupted(BaseException):
    """A signal, raised in the main thread wherever it is; no `KeyboardInterrupt`, which click answers by itself."""


class _State:
    """Of this process: who it is, whether it has something to clear up, and which signal came when."""

    command = ""
    ending = ": interrupted"
    clears_up = False
    number: int | None = None
    at_s = 0.0
    swallowed = False
    held = False
    waiting: int | None = None


def answer_signals(command: str, *, keeps_results: bool) -> None:
    """From now on one of the signals ends this process at once; after `clear_up_first` it raises `Interrupted`.

    What whoever started it has set to be ignored (nohup) stays ignored.
    """
    _State.command = command
    _State.ending = interrupted_line(keeps_results=keeps_results)
    atexit.register(_leave_if_interrupted)
    sys.unraisablehook = _once_more
    for number in ANSWERED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _answer)


def interrupted_line(*, keeps_results: bool) -> str:
    """What follows the command's name."""
    return ": interrupted" + ("; what was finished is kept" if keeps_results else "")


def clear_up_first() -> None:
    """From now on there may be something to clear up."""
    _State.clears_up = True


def interrupted_by() -> int | None:
    """The signal that was raised as `Interrupted`, whatever became of that on its way."""
    return _State.number


@contextmanager
def answered_after() -> Iterator[None]:
    """A signal that comes in this block is answered at its end: for what must not be cut in two.

    In other threads than the main one nothing is raised, and this does nothing.
    """
    from threading import current_thread, main_thread  # noqa: PLC0415 - only what starts processes needs it

    if current_thread() is not main_thread() or _State.held:
        yield
        return
    _State.held = True
    try:
        yield
    finally:
        _State.held, number, _State.waiting = False, _State.waiting, None
        if number is not None:
            _answer(number, None)


def _answer(number: int, _frame: object) -> None:
    if _State.held:
        _State.waiting = number
        return
    now = time.monotonic()
    if not _State.clears_up:
        _leave(number)
    if _State.number is None or _State.swallowed:
        _State.number, _State.at_s, _State.swallowed = number, now, False
        raise Interrupted
    if now - _State.at_s >= REPEATED_S:
        _leave(number)


def _leave(number: int) -> None:
    """End without another step of Python's: nothing was begun, or the clearing up is not waited for."""
    cursor = SHOW_CURSOR if _State.clears_up and os.isatty(2) else b""
    try:
        os.write(2, cursor + f"{_State.command}{_State.ending}\n".encode())
    finally:
        os._exit(SIGNAL_STATUS + number)


def _once_more(unraisable: sys.UnraisableHookArgs) -> None:
    """A signal that came where nothing can be raised, as in a finaliser, comes again a moment later."""
    number = _State.number
    if number is None or not isinstance(unraisable.exc_value, Interrupted):
        sys.__unraisablehook__(unraisable)
        return
    from threading import Timer  # noqa: PLC0415 - needed next to never

    # What ends before that has been interrupted all the same.
    _State.swallowed = True
    again = signal.raise_signal if sys.platform == "win32" else _to_this_process
    Timer(0.02, again, (number,)).start()


def _to_this_process(number: int) -> None:
    # Wakes the main thread from a system call, which `raise_signal` in another one does not.
    os.kill(os.getpid(), number)


def _leave_if_interrupted() -> None:
    """Registered first and so called last: libraries' threads may still compute, and abort where Python ends first."""
    if _State.number is not None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(SIGNAL_STATUS + _State.number)
