"""Files read once into memory of this process: what is hashed there is what is used, whatever becomes of the file."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ...errors import GmosError
from ..files.atomic_file import writing
from ..files.regular_file import open_unbuffered

CHUNK_BYTES = 8 << 20


def private_read(path: Path, size: int) -> tuple[bytearray, str]:
    """A file's first `size` bytes, fewer if it is shorter, and their SHA-256 in hexadecimal.

    Raises:
        GmosError: it cannot be read.
    """
    data, digest, at = bytearray(size), hashlib.sha256(), 0
    try:
        with memoryview(data) as view, open_unbuffered(path) as file:
            # In pieces: what was just read is still in the processor's cache when it is hashed.
            while count := file.readinto(view[at : at + CHUNK_BYTES]):
                digest.update(view[at : at + count])
                at += count
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); copy the bundle again") from error
    del data[at:]
    return data, digest.hexdigest()


@contextmanager
def private_folder(files: Mapping[str, bytes | bytearray]) -> Iterator[Path]:
    """A folder of this user's with these files, for programs that read paths; gone at the end.

    Raises:
        GmosError: it cannot be written.
    """
    # A library may keep a file open, which Windows does not remove.
    with tempfile.TemporaryDirectory(prefix="gmos-graph-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for file, content in files.items():
            with writing(folder / file):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(content)
        yield folder
