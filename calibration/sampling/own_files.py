"""A directory that a calibration keeps for itself: arrays and JSON by name, whole or not there, never executed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ...runtime.atomic_file import replaced_at_end

UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)
"""What reading a damaged file may raise."""


def check_own(
    directory: Path, own: Callable[[Path], bool], *, given: object, file: str, foreign: str
) -> None:
    """Refuse a place that holds something else.

    Args:
        directory: that must be new, empty, or hold nothing but our own entries.
        own: whether an entry is ours.
        given: what to call the directory.
        file: the end of the message where it is a file.
        foreign: the end of the message where it holds another entry.

    Raises:
        GmosError: it is a file, or a directory with other entries.
    """
    if directory.exists() and not directory.is_dir():
        raise GmosError(f"{given} is a file{file}")
    entries = directory.iterdir() if directory.is_dir() else ()
    entry = next((entry for entry in entries if not own(entry)), None)
    if entry is not None:
        raise GmosError(f"{given} holds {entry.name}{foreign}")


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


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Write a JSON object.

    Raises:
        GmosError: the file cannot be written.
    """
    with replaced_at_end(path) as temporary:
        temporary.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


def as_json(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """A value as it comes back from JSON, to compare with."""
    return json.loads(json.dumps(value))
