"""Files in directories that a calibration keeps for itself: arrays by name, whole or not there, never executed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.atomic_file import replaced_at_end

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What reading a damaged file may raise."""


def foreign_entry(directory: Path, own: Callable[[Path], bool]) -> Path | None:
    """The first entry of a directory that is not one of our own; the path itself if it is a file."""
    if directory.exists() and not directory.is_dir():
        return directory
    entries = directory.iterdir() if directory.is_dir() else ()
    return next((entry for entry in entries if not own(entry)), None)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file, in their order; raises one of `UNREADABLE`."""
    # Opened here: NumPy leaves a file open that turns out to be damaged.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], *, compressed: bool = False) -> None:
    """Write arrays by name.

    Raises:
        GmosError: the file cannot be written.
    """
    write = np.savez_compressed if compressed else np.savez
    with replaced_at_end(path) as temporary, temporary.open("wb") as file:
        write(file, **dict(arrays))  # type: ignore[arg-type]
