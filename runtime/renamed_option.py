"""Options under names that they had before: they work, and say what they are called now."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

logger = logging.getLogger(__name__)


def renamed_option(old: str, new: str, **attributes: Any) -> Callable[[Command], Command]:
    """An old name of an option, in both spellings and not in the help; its value is that of the new name.

    Args:
        old: the name before, in snake_case.
        new: the name now, in snake_case.
        attributes: those of the option that a value needs, `is_flag` or `type` say.
    """
    spellings = dict.fromkeys((f"--{old}", f"--{old.replace('_', '-')}"))

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def renamed(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as the command
            value = options.pop(old)
            if value not in (None, False, ()):
                logger.warning("--%s is called --%s now; the old name goes with the next release", old, new)
                options[new] = value
            return command(*arguments, **options)

        return click.option(*spellings, old, hidden=True, **attributes)(renamed)  # type: ignore[return-value]

    return decorate
