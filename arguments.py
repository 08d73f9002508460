"""Errors in the words of the Python interface: what the commands' options are called there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from .errors import GmosError

P = ParamSpec("P")
R = TypeVar("R")

OTHERWISE = {
    **{f"{name}_ckpt": f"checkpoints.{name}" for name in ("pi3", "sam2", "gmos", "gmos_s")},
    **{name: f'existing="{name}"' for name in ("resume", "overwrite")},
}
"""Options whose arguments have other names; those of the same name follow from the functions."""

COMMAND = re.compile(r"(?<![\w-])gmos-(?!deploy)\w+(?: [^\s,;)]+(?:,[^\s,;)]+)*)*")
"""A command line in a message: that stays one."""

OPTION = re.compile(r"(?<![\w-])--([a-z]\w*(?:-\w+)*)")

_known: dict[str, str] = dict(OTHERWISE)
"""What to write for each option: the argument, of flags with the value that they stand for."""


def in_arguments(message: str) -> str:
    """A message with arguments for the options that they are, but in the command lines that it names.

    What has no argument stays an option.
    """

    def argument(found: re.Match[str]) -> str:
        return _known.get(found[1].replace("-", "_"), found[0])

    parts, end = [], 0
    for command in COMMAND.finditer(message):
        parts += [OPTION.sub(argument, message[end : command.start()]), command[0]]
        end = command.end()
    return "".join(parts) + OPTION.sub(argument, message[end:])


@contextmanager
def telling_arguments() -> Generator[None, None, None]:
    """Within this, an error names arguments where a command's would name options."""
    try:
        yield
    except GmosError as error:
        error.args = (in_arguments(str(error)),)
        raise


def tells_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose errors name its arguments; they are those of options of the same names."""
    for name, parameter in inspect.signature(function).parameters.items():
        _known.setdefault(name, f"{name}=True" if isinstance(parameter.default, bool) else name)

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        with telling_arguments():
            return function(*args, **kwargs)

    return told
