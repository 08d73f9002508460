"""Opens files that somebody gave: regular ones only, so that no read of them waits for a writer or has no end."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}

OPENING = (
    os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
)
"""Without O_NONBLOCK a named pipe would wait for its other end; of a regular file it changes nothing."""


def open_regular(path: Path) -> io.BufferedReader:
    """A regular file, or a link to one, opened to read its bytes.

    Raises:
        OSError: as `open_unbuffered`.
    """
    return io.BufferedReader(open_unbuffered(path))


def open_unbuffered(path: Path) -> io.FileIO:
    """The same, for who reads much at once.

    Raises:
        OSError: there is none that can be read; `strerror` says what is there instead, as for names that no file
            can have.
    """
    try:
        descriptor = os.open(path, OPENING)
    except ValueError as error:
        # A zero in the name, or letters that are none.
        raise OSError(errno.EINVAL, f"no file can have this name: {error}", str(path)) from error
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind == stat.S_IFREG:
        return io.FileIO(descriptor)
    os.close(descriptor)
    code = errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL
    raise OSError(code, f"it is {KINDS.get(kind, 'something else')} and no regular file", str(path))


def check_regular(path: Path) -> None:
    """Refuse what `open_regular` refuses, of a file that a library opens by its path.

    Raises:
        OSError: as `open_regular`.
    """
    open_unbuffered(path).close()


MOST_TEXT_BYTES = 256 << 20
"""Of a list or a table that somebody gave; MoCA's boxes are 4 MB."""


def read_text(path: Path) -> str:
    """A regular file in UTF-8, with or without a mark at its start.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    return read_bounded(path, MOST_TEXT_BYTES).decode("utf-8-sig")


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file that is not too large for what it should be.

    Raises:
        OSError: it cannot be read, or has more bytes.
    """
    with open_regular(path) as file:
        # Memory is taken for as much as is asked for.
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= most_bytes else b""
    if max(size, len(content)) > most_bytes:
        raise OSError(errno.EFBIG, f"it has more than {most_bytes >> 20} MiB", str(path))
    return content
