"""A bundle's new directory: whole or not there."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files.atomic_file import work_folder, writing

OLD = "old"
"""What was at the bundle's place, in the work folder, while neither is there."""

EXCHANGE = {
    "linux": ("renameat2", (-100, -100), 2),
    "darwin": ("renameatx_np", (-2, -2), 2),
}
"""What exchanges two names in one step: the C library's function, its words for the working directory, and its flag."""


@contextmanager
def new_bundle(directory: Path) -> Iterator[Path]:
    """A temporary directory beside `directory` that takes its place when the block ends without an error.

    What was there before stays until then, and is all there is after an error or an interruption. A process that is
    killed leaves one or the other; what else it leaves is removed by the next one.

    Raises:
        GmosError: it cannot be written.
    """
    target = directory.resolve()
    with writing(directory):
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name[:100]}.gmos-"
        with work_folder(target.parent, prefix, lambda content: _put_back(content, target)) as content:
            yield content
            if not target.exists():
                content.rename(target)
            elif not exchanged(content, target):
                try:
                    target.rename(content.with_name(OLD))
                    content.rename(target)
                finally:
                    _put_back(content, target)


def _put_back(content: Path, target: Path) -> None:
    """Have the old bundle at its place again if the new one did not get there."""
    old = content.with_name(OLD)
    if old.exists() and not target.exists():
        old.rename(target)


def exchanged(a: Path, b: Path) -> bool:
    """Exchange two directories in one step, if the system and the file system can."""
    name, (at_a, at_b), flag = EXCHANGE.get(sys.platform, ("", (0, 0), 0))
    try:
        exchange = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return False
    return bool(exchange(at_a, os.fsencode(a), at_b, os.fsencode(b), flag) == 0)
