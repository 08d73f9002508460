"""Options as the gmos-export commands spell them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def option(name: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option in the published snake_case spelling and in kebab-case."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    return click.option(*spellings, name, **attributes)
