"""NumPy's files as somebody gave them: whatever is wrong with one is an `OSError` or a `ValueError`."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .regular_file import open_regular

DAMAGE = (
    RuntimeError,
    ArithmeticError,
    LookupError,
    TypeError,
    EOFError,
    MemoryError,
    SyntaxError,
    TokenError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
"""What NumPy and zipfile raise on files that are none of theirs, beside a ValueError: a header is Python's text."""


def read_array(source: Path | BytesIO) -> NDArray[Any]:
    """The array of an .npy file, or of its content; nothing in it is executed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    with damage_as_value_error(), open_regular(source) if isinstance(source, Path) else source as file:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        found.close()
        raise ValueError("several arrays, expected one")


def read_arrays(source: Path | BytesIO, most_bytes: int | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, or of its content, by name; nothing in it is executed.

    Args:
        source: where it is.
        most_bytes: what its arrays may take together, unpacked: a small file can hold very large ones. Without it
            only files as `numpy.savez` writes them are read, not compressed, so that no array is larger than the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or more is in it.
    """
    with damage_as_value_error(), open_regular(source) if isinstance(source, Path) else source as file:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        if most_bytes is None and any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("compressed arrays, expected them as they are")
        most = file.seek(0, os.SEEK_END) if most_bytes is None else most_bytes
        # No more than what a member says is unpacked of it; those that are stored may lie over one another.
        if sum(member.file_size for member in members) > most:
            raise ValueError(f"more than {most >> 20} MiB of arrays")
        file.seek(0)
        with np.load(file, allow_pickle=False) as found:
            return dict(found)


@contextmanager
def damage_as_value_error() -> Iterator[None]:
    """Raise whatever NumPy raises on files that are none of its own as a ValueError, in one line."""
    try:
        yield
    except DAMAGE as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
