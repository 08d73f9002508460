"""A nameless temporary file for what memory has no room for; it is gone with the process."""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError


class SpillFile:
    """Keeps bytes; each piece can be read any number of times. The file is made with the first one.

    Args:
        directory: where the file lies; None: the system's temporary directory.
        content: what is kept, for the error message.
        advice: what else can be done where there is no room.
    """

    def __init__(self, directory: Path | None, *, content: str, advice: str) -> None:
        self._directory = directory or Path(tempfile.gettempdir())
        self._content = content
        self._advice = advice
        self._file: IO[bytes] | None = None
        self.nbytes = 0

    def append(self, data: bytes | memoryview) -> int:
        """Keep a piece; returns where it lies.

        Raises:
            GmosError: the file cannot be written.
        """
        offset = self.nbytes
        try:
            if self._file is None:
                # Kept open: it lives as long as this object.
                self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            self._file.seek(offset)
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
        except OSError as error:
            raise GmosError(
                f"{self._directory}: cannot keep {self._content} there ({error.strerror}); free some space, "
                f"{self._advice}"
            ) from error
        self.nbytes += len(data)
        return offset

    def read(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """A piece, (nbytes,) uint8, read from the file as it is used."""
        if self._file is None:
            raise ValueError("nothing is kept, or the file is closed")
        return np.memmap(self._file, np.uint8, mode="r", offset=offset, shape=(nbytes,))

    def close(self) -> None:
        """Drop everything."""
        if self._file is not None:
            self._file.close()
            self._file = None
