"""Files that are whole or not there, folders to work in, and one message for all that can go wrong with writing."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ...errors import GmosError, MachineError

EDQUOT = getattr(errno, "EDQUOT", errno.ENOSPC)
"""Windows has none."""

ADVICE = {
    EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EACCES: "permission denied; expected a place this user may write to",
    errno.EPERM: "permission denied; expected a place this user may write to",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOTDIR: "a part of this path is a file, not a directory; choose another place",
    errno.EEXIST: "there is a file where a directory is needed; choose another place",
    errno.EISDIR: "there is a directory where a file is needed; choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}

MACHINES = frozenset({EDQUOT, errno.ENOSPC, errno.EROFS, errno.EIO})
"""After one of these nothing else can be written there either."""

TEMPORARY = ".gmos-tmp"
"""Ending of what is there for a while: locked by the process that made it, removed by others when that is dead."""

LOCK_NAME = "lock"
CONTENT_NAME = "content"

NO_LOCK = (OSError, NotImplementedError)
"""What locking raises where the file system has no locks."""

Settle = Callable[[Path], None]
"""What is done with a dead process's folder before it is removed."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing `path` into a `GmosError` that names the path and the way out.

    It is a `MachineError` where nothing else could be written there either.
    """
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, f"{error.strerror or error}; choose another place")
        kind = MachineError if error.errno in MACHINES else GmosError
        raise kind(f"cannot write {path}: {advice}") from error


@contextmanager
def replaced_at_end(path: Path, *, mode: int = 0o666, keep: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    It is there already, empty and locked; files beside it that dead processes left are removed.

    Args:
        path: of the file.
        mode: its permissions, of which the umask takes away.
        keep: a file that has got there meanwhile stays, and what was written is on the disk before it is there.

    Raises:
        GmosError: the file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_files(path.parent)
        while True:
            # Numbers of processes are the same in every container, and can be guessed.
            temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}{TEMPORARY}")
            try:
                with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as held:
                    # Else another process took it for a dead one's before it was locked.
                    if lock(held.fileno()) is False or not temporary.exists():
                        continue
                    yield temporary
                    if keep:
                        os.fsync(held.fileno())
                    if sys.platform == "win32":
                        held.close()
                    if keep:
                        _move_unless_there(temporary, path)
                    else:
                        temporary.replace(path)
                    return
            finally:
                temporary.unlink(missing_ok=True)


def _move_unless_there(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:
        # A file system without links.
        if not path.exists():
            temporary.replace(path)


def check_directory(directory: Path) -> None:
    """Refuse a directory that no file can be made in, before minutes of work; it is made if it is not there.

    Raises:
        GmosError: it cannot be made or written.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        # Permissions do not tell of read-only file systems.
        with tempfile.TemporaryFile(dir=directory):
            pass


def remove_stale_files(folder: Path) -> None:
    """Remove what `replaced_at_end` made in processes that are dead: the system drops a lock with its process."""
    for path in folder.glob(f".*{TEMPORARY}"):
        # What cannot be opened is somebody else's. Windows removes nothing that is open.
        with suppress(OSError):
            if sys.platform == "win32":
                path.unlink()
            else:
                with path.open("r+b") as found:
                    if lock(found.fileno()):
                        path.unlink()


def lock(handle: int) -> bool | None:
    """Lock an open file unless somebody else has; None where there are no locks."""
    if sys.platform == "win32":
        return None
    else:  # noqa: RET505 - for the type checker, which knows of platforms
        try:
            import fcntl  # noqa: PLC0415 - Windows has none

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except (ImportError, OSError):
            return None
        return True


@contextmanager
def work_folder(place: Path, prefix: str, settle: Settle | None = None) -> Iterator[Path]:
    """Yield an empty folder in one of our own inside `place`, which is removed at the end with all in it.

    Its name begins with `prefix` and cannot be guessed: numbers of processes are the same in every container. Folders
    of that prefix that dead processes left are settled and removed first. One that cannot be settled is not removed.

    Raises:
        OSError: it cannot be made.
        GmosError: what `settle` raises.
    """
    remove_stale(place, prefix, settle)
    while True:
        work = place / f"{prefix}{uuid.uuid4().hex}"
        lock = _lock_of(work)
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
            _settle_and_remove(work, lock, settle)


def remove_stale(place: Path, prefix: str, settle: Settle | None = None) -> None:
    """Settle and remove the folders of processes that are dead: the system drops a lock with its process."""
    for work in sorted(place.glob(f"{_literally(prefix)}*")):
        if not work.is_dir() or work.is_symlink():
            continue
        lock = _lock_of(work)
        # What cannot be opened or locked belongs to a process that is alive.
        with suppress(Timeout, *NO_LOCK):
            lock.acquire(timeout=0)
            _settle_and_remove(work, lock, settle)


def alive(place: Path, prefix: str) -> Iterator[Path]:
    """What is in those folders of `work_folder` that a process holds; none where the file system has no locks."""
    for work in place.glob(f"{_literally(prefix)}*"):
        lock = _lock_of(work)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield work / CONTENT_NAME
        except NO_LOCK:
            pass
        finally:
            lock.release()


def _literally(prefix: str) -> str:
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in prefix)


def _lock_of(work: Path) -> FileLock:
    # Whoever holds it may end in another thread than it began.
    return FileLock(work / LOCK_NAME, thread_local=False)


def _settle_and_remove(work: Path, lock: FileLock, settle: Settle | None) -> None:
    try:
        if settle is not None and work.is_dir():
            settle(work / CONTENT_NAME)
    except BaseException:
        lock.release()
        raise
    _remove(work, lock)


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
