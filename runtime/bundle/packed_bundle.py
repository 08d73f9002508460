"""A bundle in a small file: graphs compressed, weights taken from checkpoints in half precision where they are equal.

The file is a ZIP. `NAME.json` is the `bundle.json` of a bundle. A file that it lists lies under its SHA-256, once for
all bundles, or is a recipe of `recipes.json`: parts that are copied from `rest`, or read from a checkpoint and widened.
What is written is checked against the hashes of `bundle.json`, so no part can be mistaken for another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..files.typed_json import parse_json
from .manifest import MANIFEST, Bundle, open_bundle
from .new_bundle import new_bundle

RECIPES, REST = "recipes.json", "rest"

REST_STRIDE = 4
"""`rest` holds first all first bytes of its float32 values, then all second ones and so on: exponents compress."""

Part = Sequence[Any]
"""Where it goes, its source, where it lies there, both in bytes; and how many bytes of `rest`, or values of another.

A pair of numbers: rows and columns of a matrix that is transposed.
"""

REINSTALL = "install gmos-deploy again"


def unpack_bundle(packed: Path, name: str, sources: Path, out: Path) -> Bundle:
    """Write a packed bundle to a directory, and check every file.

    Args:
        packed: the file.
        name: of the bundle in it.
        sources: folder of the checkpoints that recipes name, float16.
        out: where it goes; a bundle that is there is replaced.

    Raises:
        GmosError: the file or a checkpoint is damaged or not of each other, or `out` cannot be written.
    """
    try:
        with ZipFile(packed) as archive:
            manifest = archive.read(f"{name}.json")
            recipes: Mapping[str, Sequence[Part]] = parse_json(archive.read(RECIPES), packed, REINSTALL)
            rest, stored = joined(archive.read(REST)), set(archive.namelist())
            files = {
                file: archive.read(record["sha256"])
                if record["sha256"] in stored
                else _cooked(record["bytes"], recipes[record["sha256"]], rest, sources)
                for file, record in parse_json(manifest, packed, REINSTALL)["files"].items()
            }
    except (OSError, ValueError, KeyError, BadZipFile, ZlibError) as error:
        raise GmosError(f"{packed} cannot be unpacked ({error}); {REINSTALL}") from error
    with new_bundle(out) as root:
        for file, data in {**files, MANIFEST: manifest}.items():
            (root / file).write_bytes(data)
        bundle = open_bundle(root)
        for file in bundle.files:
            bundle.files.verified(file)
    return open_bundle(out)


def split(data: bytes) -> bytes:
    """Bytes of float32 values by their place in a value; `joined` undoes it."""
    return np.frombuffer(data, np.uint8).reshape(-1, REST_STRIDE).T.tobytes()


def joined(data: bytes) -> NDArray[np.uint8]:
    """What `split` has split."""
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(REST_STRIDE, -1).T).reshape(-1)


def _cooked(nbytes: int, parts: Sequence[Part], rest: NDArray[np.uint8], sources: Path) -> bytes:
    """A file of weights from its parts; zeros between them."""
    made = np.zeros(nbytes, np.uint8)
    for place, source, start, count in parts:
        if source == REST:
            values = rest[start : start + count]
        else:
            # Rows and columns: a matrix that the graph has the other way round.
            shape = count if isinstance(count, list) else [count]
            half = np.fromfile(sources / source, np.float16, math.prod(shape), offset=start).reshape(shape)
            values = np.ascontiguousarray(half.T, np.float32).reshape(-1).view(np.uint8)
        made[place : place + len(values)] = values
    return made.tobytes()
