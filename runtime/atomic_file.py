"""Files that are either whole or not there, and one message for all that can go wrong with writing."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import GmosError

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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing `path` into a `GmosError` that names the path and the way out."""
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, f"{error.strerror or error}; choose another place")
        raise GmosError(f"cannot write {path}: {advice}") from error


@contextmanager
def replaced_at_end(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Raises:
        GmosError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


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
