"""Which files a result was made from: checkpoints without reading gigabytes, others by all that is in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import GmosError
from .regular_file import open_regular, open_unbuffered

HASH_CHUNK_BYTES = 8 << 20

END_BYTES = 1 << 20
"""Bytes hashed at each end of the file; trained weights differ there."""


def checkpoint_identity(path: Path) -> str:
    """Name, size and a SHA-256 over both ends of a file, as one string.

    Raises:
        GmosError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            digest = hashlib.sha256(file.read(END_BYTES))
            size = file.seek(0, 2)
            file.seek(max(0, size - END_BYTES))
            digest.update(file.read(END_BYTES))
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); expected a checkpoint file") from error
    return f"{path.name} {size} bytes, ends sha256 {digest.hexdigest()[:16]}"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal.

    Raises:
        GmosError: it cannot be read.
    """
    digest, buffer = hashlib.sha256(), bytearray(HASH_CHUNK_BYTES)
    view = memoryview(buffer)
    try:
        with open_unbuffered(path) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); expected a readable file") from error
    return digest.hexdigest()
