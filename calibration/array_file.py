"""Arrays by name in a file that is whole or not there; nothing in it is executed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.atomic_file import replaced_at_end

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What reading a damaged file may raise."""


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
