"""How a run reports where it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the number of frames just finished."""


class Progress(Protocol):
    """A listener. Stages of one sequence follow each other and do not nest."""

    def stage(self, name: str, frames: int | None) -> AbstractContextManager[Advance]:
        """A stage of `frames` frames (None: unknown) that ends with the context."""
        ...


class NoProgress:
    """Listens to nothing."""

    @contextmanager
    def stage(self, name: str, frames: int | None) -> Iterator[Advance]:  # noqa: ARG002 - the protocol's
        """See `Progress`."""
        yield lambda _: None
