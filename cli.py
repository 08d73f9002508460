"""What every command has: its log, its errors, its exit status."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import warnings
from contextlib import suppress
from io import TextIOWrapper
from types import TracebackType
from typing import NoReturn

import click

from .entry import DOCTOR
from .errors import GmosError, printable
from .interruption import SIGNAL_STATUS, Interrupted, clear_up_first, interrupted_by, interrupted_line

BAD_INPUT_STATUS = 2

NO_PLACE = (errno.ENOSPC, errno.EIO)
"""Why printing fails where the output is a file."""

NO_THREAD = "can't start new thread"
"""Python's words."""

GPU_WORDS = re.compile(r"\b(CUDA|cuDNN|GPU|NVIDIA|TensorRT|driver)\b|cuda:\d")
"""What an error is about for which this machine may lack something."""

OPTION = re.compile(r"--(?!(device|backend)\b)")
"""How an error of an option begins which chooses nothing that this machine may lack."""


class LineFormatter(logging.Formatter):
    """One line a record, after the command's name; the level is named from warnings up."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return f"{self._command}: {level}{printable(record.getMessage())}"


def guarded(command: click.Command, name: str, arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; what the user did wrong is one line on stderr."""
    try:
        status = _status(command, name, arguments)
    except (click.Abort, KeyboardInterrupt, Interrupted):
        return _interrupted(name)
    # Libraries turn what is raised into errors of their own, or swallow it.
    except BaseException:
        if interrupted_by() is None:
            raise
        return _interrupted(name)
    return status if interrupted_by() is None else _interrupted(name)


def _status(command: click.Command, name: str, arguments: list[str] | None) -> int:
    try:
        status = command.main(args=arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG and error.filename is not None:
            # Whatever asks the system about a name that was given.
            message = (
                f"{error.filename!s:.60}… cannot be the name of a file ({error.strerror}); give a shorter one"
            )
        # Of files there is a name, and a `GmosError` where one can be used no more.
        elif error.errno not in NO_PLACE or error.filename is not None:
            raise
        else:
            message = f"what it says cannot be printed ({error.strerror}); results that were filed are kept"
            drop_output()
    except (MemoryError, RuntimeError) as error:
        # A thread is memory, too, and one of a number that a user may have.
        if not isinstance(error, MemoryError) and str(error) != NO_THREAD:
            raise
        reason = " ".join(str(error).split()) or "no more is given"
        message = (
            f"there is not enough memory ({reason}); close other programs, or raise the limit (ulimit -v, -u)"
        )
    except click.ClickException as error:
        message = error.format_message()
    except GmosError as error:
        message = with_advice(str(error), name)
    else:
        return status if isinstance(status, int) else 0
    if interrupted_by() is None:
        click.echo(f"{name}: " + printable(" ".join(message.split())), err=True)
    return BAD_INPUT_STATUS


def _interrupted(name: str) -> int:
    click.echo(f"{name}{interrupted_line(keeps_results=name != DOCTOR)}", err=True)
    return SIGNAL_STATUS + (interrupted_by() or signal.SIGINT)


def print_anything() -> None:
    """Have letters that a terminal or a pipe cannot show printed as escapes, instead of ending in an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Send what is still to be printed nowhere: Python would try again at its end, and fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def with_advice(message: str, command: str) -> str:
    """An error about the GPU sends to gmos-doctor, unless it names a command of this project, or an option's value."""
    known = OPTION.match(message) or "gmos-" in message.replace("gmos-deploy", "")
    if command == DOCTOR or known or not GPU_WORDS.search(message):
        return message
    return f"{message}; what this machine lacks: run {DOCTOR}"


def end_traceback(command: str) -> None:
    """Have a traceback of this process end with what to do: whatever was not expected may be the machine's."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        next_step = "report it" if command == DOCTOR else f"report it with what the machine has: run {DOCTOR}"
        click.echo(f"{command}: this was not expected; {next_step}", err=True)

    sys.excepthook = show


def set_up_logging(command: str, *, quiet: bool) -> None:
    """Send the package's log to stderr, and nothing that Pillow warns of: damaged metadata, which nobody reads."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(command))
    package = logging.getLogger(__package__)
    package.handlers = [handler]
    package.setLevel(logging.WARNING if quiet else logging.INFO)


def version_option(program: str) -> click.Option:
    """The option that tells version and commit."""

    def tell(context: click.Context, _: click.Parameter, asked: bool) -> None:
        if asked and not context.resilient_parsing:
            from .evaluation.report.software import software  # noqa: PLC0415 - the option alone needs it

            click.echo(f"{program} {software()}")
            context.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=tell,
        help="Show the version, and the commit where it is known, and exit.",
    )


def start(command: click.Command, name: str) -> NoReturn:
    """Run a command on this process's arguments and end with its status; its log goes to stderr."""
    print_anything()
    set_up_logging(name, quiet=False)
    end_traceback(name)
    clear_up_first()
    command.params.append(version_option(name))
    sys.exit(guarded(command, name))
