"""Folders that a process works in, locked while it lives: the next one knows what a dead one left, and removes it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = "lock"
CONTENT_NAME = "content"

NO_LOCK = (OSError, NotImplementedError)
"""What locking raises where the file system has no locks."""

Settle = Callable[[Path], None]
"""What is done with a dead process's folder before it is removed."""


@contextmanager
def work_folder(place: Path, prefix: str, settle: Settle | None = None) -> Iterator[Path]:
    """Yield an empty folder in one of our own inside `place`, which is removed at the end with all in it.

    Its name begins with `prefix` and cannot be guessed: numbers of processes are the same in every container. Folders
    of that prefix that dead processes left are settled and removed first.

    Raises:
        OSError: it cannot be made.
    """
    remove_stale(place, prefix, settle)
    while True:
        work = place / f"{prefix}{uuid.uuid4().hex}"
        lock = _lock(work)
        try:
            work.mkdir()
            # Without locks on this file system nobody can tell a dead process from a live one, nor remove either.
            with suppress(*NO_LOCK):
                lock.acquire()
            # Else another process took the folder for a dead one's before it was locked.
            if work.is_dir():
                (work / CONTENT_NAME).mkdir()
                yield work / CONTENT_NAME
                return
        finally:
            _remove(work, lock)


def remove_stale(place: Path, prefix: str, settle: Settle | None = None) -> None:
    """Settle and remove the folders of processes that are dead: the system drops a lock with its process."""
    for work in sorted(place.glob(f"{_literally(prefix)}*")):
        if not work.is_dir() or work.is_symlink():
            continue
        lock = _lock(work)
        # What cannot be opened or locked belongs to a process that is alive.
        with suppress(Timeout, *NO_LOCK):
            lock.acquire(timeout=0)
            try:
                if settle is not None:
                    settle(work / CONTENT_NAME)
            except BaseException:
                lock.release()
                raise
            _remove(work, lock)


def _literally(prefix: str) -> str:
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in prefix)


def _lock(work: Path) -> FileLock:
    # Whoever holds it may end in another thread than it began.
    return FileLock(work / LOCK_NAME, thread_local=False)


def _remove(work: Path, lock: FileLock) -> None:
    """Remove a folder whose lock is held, and let go of it."""
    try:
        _removed(work, lock)
    # An interruption: it is not repeated at once.
    except BaseException:
        _removed(work, lock)
        raise


def _removed(work: Path, lock: FileLock) -> None:
    shutil.rmtree(work / CONTENT_NAME, ignore_errors=True)
    # Windows keeps what is open. Elsewhere whoever waits for the lock finds that there is nothing left.
    if os.name == "nt":
        lock.release()
    shutil.rmtree(work, ignore_errors=True)
    with suppress(*NO_LOCK):
        lock.release()
