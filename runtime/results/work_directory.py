"""A private place for unfinished results that never outlives its run for long."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..atomic_file import writing

PREFIX = "work-"
LOCK_NAME = "lock"
CONTENT_NAME = "content"

NO_LOCK = (OSError, NotImplementedError)
"""What locking raises where the file system has no locks."""


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
        content = work / CONTENT_NAME
        try:
            content.mkdir()
        except OSError:
            lock.release()
            raise
    try:
        yield content
    finally:
        _remove(work, lock)
        for path in made:
            with suppress(OSError):
                path.rmdir()


def remove_stale(private: Path) -> None:
    """Remove the work directories of runs that are dead: the system drops a lock with its process."""
    for work in private.glob(f"{PREFIX}*"):
        if not work.is_dir():
            continue
        lock = _lock(work)
        # What cannot be opened or locked belongs to a run that is alive.
        with suppress(Timeout, *NO_LOCK):
            lock.acquire(timeout=0)
            _remove(work, lock)


def _locked_directory(private: Path) -> tuple[Path, FileLock]:
    """A new work directory and what locks it."""
    while True:
        work = private / f"{PREFIX}{uuid.uuid4().hex}"
        work.mkdir()
        lock = _lock(work)
        # Without locks on this file system nobody can tell a dead run from a live one, nor remove either.
        with suppress(*NO_LOCK):
            lock.acquire()
        if work.is_dir():
            return work, lock
        # Another run took the directory for a dead one before it was locked.
        lock.release()


def _lock(work: Path) -> FileLock:
    # Whoever holds it may end in another thread than it began.
    return FileLock(work / LOCK_NAME, thread_local=False)


def _remove(work: Path, lock: FileLock) -> None:
    """Remove a directory whose lock is held; the lock's own file last, as Windows keeps what is open."""
    shutil.rmtree(work / CONTENT_NAME, ignore_errors=True)
    lock.release()
    shutil.rmtree(work, ignore_errors=True)
