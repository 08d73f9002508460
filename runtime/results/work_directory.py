"""A private place for unfinished results that never outlives its run for long."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..atomic_file import writing

PREFIX = "work-"
LOCK_NAME = "lock"


@contextmanager
def work_directory(save_dir: Path, private_folder: str) -> Iterator[Path]:
    """Yield an empty directory inside `save_dir / private_folder`, removed at the end with all in it.

    It is on the disk of the results, so that they can be moved into place at once. Directories that
    dead runs left are removed first. Parents made here are removed again where they stay empty.

    Raises:
        GmosError: `save_dir` cannot be made or written to.
    """
    private = save_dir / private_folder
    with writing(save_dir):
        made = [path for path in (private, save_dir, *save_dir.parents) if not path.exists()]
        private.mkdir(parents=True, exist_ok=True)
        remove_stale(private)
        work, lock = _locked_directory(private)
        try:
            content = work / "content"
            content.mkdir()
        except OSError:
            os.close(lock)
            raise
    try:
        yield content
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)
        for path in made:
            with suppress(OSError):
                path.rmdir()


def remove_stale(private: Path) -> None:
    """Remove the work directories of runs that are dead: the system drops a lock with its process."""
    for work in private.glob(f"{PREFIX}*"):
        # What cannot be opened or locked belongs to a run that is alive.
        if not work.is_dir():
            continue
        with suppress(OSError):
            lock = os.open(work / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(work, ignore_errors=True)
            finally:
                os.close(lock)


def _locked_directory(private: Path) -> tuple[Path, int]:
    """A new work directory and the open file that locks it."""
    while True:
        work = private / f"{PREFIX}{uuid.uuid4().hex}"
        work.mkdir()
        lock_path = work / LOCK_NAME
        try:
            lock = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            # Another run took the directory for a dead one before it was locked.
            continue
        # Without locks on this file system nobody can tell a dead run from a live one, nor remove either.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if lock_path.exists():
            return work, lock
        os.close(lock)
