"""Which file a result was made from, without reading gigabytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import GmosError

END_BYTES = 1 << 20
"""Bytes hashed at each end of the file; trained weights differ there."""


def checkpoint_identity(path: Path) -> str:
    """Name, size and a SHA-256 over both ends of a file, as one string.

    Raises:
        GmosError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(END_BYTES))
            size = file.seek(0, 2)
            file.seek(max(0, size - END_BYTES))
            digest.update(file.read(END_BYTES))
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); expected a checkpoint file") from error
    return f"{path.name} {size} bytes, ends sha256 {digest.hexdigest()[:16]}"
