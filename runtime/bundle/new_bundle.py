"""A bundle's new directory: whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..atomic_file import writing


@contextmanager
def new_bundle(directory: Path) -> Iterator[Path]:
    """A temporary directory beside `directory` that takes its place when the block ends without an error.

    What was there before stays until then, and is all there is after an error or an interruption.

    Raises:
        GmosError: it cannot be written.
    """
    target = directory.resolve()
    temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}.tmp")
    old = temporary.with_suffix(".old")
    with writing(directory):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            if target.exists():
                target.rename(old)
            try:
                temporary.rename(target)
            except BaseException:
                if old.exists():
                    old.rename(target)
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
