"""The entry points of all commands: their log, their errors, their exit status."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from types import TracebackType
from typing import Any, NoReturn

import click

from .errors import GmosError

BAD_INPUT_STATUS = 2
INTERRUPTED_STATUS = 130
"""128 + SIGINT, as shells count."""

NO_PLACE = (errno.ENOSPC, errno.EIO)
"""Why printing fails where the output is a file."""

DOCTOR = "gmos-doctor"

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
        return f"{self._command}: {level}{record.getMessage()}"


def guarded(command: click.Command, name: str, arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status; what the user did wrong is one line on stderr."""
    try:
        status = command.main(args=arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except OSError as error:
        # Of files there is a name, and a `GmosError` where one can be used no more.
        if error.errno not in NO_PLACE or error.filename is not None:
            raise
        message = f"what it says cannot be printed ({error.strerror}); results that were filed are kept"
        drop_output()
    except click.ClickException as error:
        message = error.format_message()
    except GmosError as error:
        message = with_advice(str(error), name)
    except (click.Abort, KeyboardInterrupt):
        click.echo(
            f"{name}: interrupted" + ("" if name == DOCTOR else "; what was finished is kept"), err=True
        )
        return INTERRUPTED_STATUS
    else:
        return status if isinstance(status, int) else 0
    click.echo(f"{name}: " + " ".join(message.split()), err=True)
    return BAD_INPUT_STATUS


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
    """Send the package's log to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(command))
    package = logging.getLogger(__package__)
    package.handlers = [handler]
    package.setLevel(logging.WARNING if quiet else logging.INFO)


def start(command: click.Command, name: str) -> NoReturn:
    """Run a command on this process's arguments and end with its status; its log goes to stderr."""
    print_anything()
    set_up_logging(name, quiet=False)
    end_traceback(name)
    sys.exit(guarded(command, name))


def entry_point(program: str, module: str, *added: str) -> Callable[[], NoReturn]:
    """What `start`s a command.

    Args:
        program: what it is called.
        module: of `commands`, which has a `MODULE_command`; imported when it is called.
        added: modules whose commands are sub-commands of it.
    """

    def command_of(name: str) -> Any:  # noqa: ANN401 - click's
        return getattr(import_module(f".commands.{name}", __package__), f"{name}_command")

    def entry() -> NoReturn:
        command = command_of(module)
        for name in added:
            command.add_command(command_of(name))
        start(command, program)

    return entry


run = entry_point("gmos-run", "run")
export = entry_point("gmos-export", "export", "calibrate")
evaluate = entry_point("gmos-eval", "evaluate")
parity = entry_point("gmos-parity", "parity")
profile = entry_point("gmos-profile", "profile")
report = entry_point("gmos-report", "report")
doctor = entry_point(DOCTOR, "doctor")
