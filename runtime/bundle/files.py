"""The files of a bundle, inside its directory, whole and unchanged, and those that an ONNX model reads tensors from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from ...errors import GmosError
from ..checkpoint_identity import file_sha256
from ..typed_json import Whole
from .private_read import private_read

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of Protocol Buffers, which ONNX models are; the field numbers below are those of `onnx.proto`."""

# What lies in which field, by the kind of message around it.
CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
EXTERNAL_KEY, EXTERNAL_VALUE = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What `bundle.json` says about a file: its length in bytes and its SHA-256 in hexadecimal."""

    bytes: Whole
    sha256: str


class BundleFiles:
    """The files that `bundle.json` lists, and no others.

    Places and lengths are checked at once, contents when a file is about to be loaded: hashing reads
    all of it, and a run rarely needs every network.
    """

    def __init__(self, root: Path, records: Mapping[str, FileRecord]) -> None:
        self._root = root
        self._records = dict(records)
        self._verified: set[str] = set()
        for name in self._records:
            self._check_place(name)

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def size(self, name: str) -> int:
        """Length in bytes."""
        return self._records[name].bytes

    def sha256(self, name: str) -> str:
        """What the bundle says the SHA-256 of a file is, in hexadecimal."""
        return self._records[name].sha256

    def verified(self, name: str) -> Path:
        """The path of a file whose content was that of the export when it was first asked for.

        What runs a file takes it from `read`: this one may change afterwards.

        Raises:
            GmosError: the bundle does not list the file, or its content has changed.
        """
        record = self._record(name)
        path = self._check_place(name)
        if name not in self._verified:
            self._compare(path, file_sha256(path), record)
            self._verified.add(name)
        return path

    def read(self, name: str) -> bytearray:
        """The content of a file, which is that of the export: what was checked is what is returned.

        Raises:
            GmosError: as `verified`.
        """
        record = self._record(name)
        path = self._check_place(name)
        data, found = private_read(path, record.bytes)
        self._compare(path, found, record)
        return data

    def _record(self, name: str) -> FileRecord:
        record = self._records.get(name)
        if record is None:
            raise GmosError(f"bundle {self._root} does not list a file {name!r}; export the bundle again")
        return record

    @staticmethod
    def _compare(path: Path, found: str, record: FileRecord) -> None:
        if found != record.sha256:
            raise GmosError(
                f"{path} has changed since the export (SHA-256 {found[:12]}…, expected "
                f"{record.sha256[:12]}…); copy the bundle again, or export it again"
            )

    def _check_place(self, name: str) -> Path:
        """The path of a listed file, if it is a whole one.

        Its name stays inside the bundle. It may be a link to somewhere else, as in the cache of a model hub: its
        content is what counts, and no program that reads paths gets it (`private_read.py`).
        """
        path = self._root / name
        if not is_plain(name):
            raise GmosError(
                f"bundle {self._root} lists {name!r}, which is outside its directory; do not trust it, "
                "export it again"
            )
        if not path.is_file():
            raise GmosError(f"bundle {self._root} lacks its file {name}; copy the bundle again")
        size, expected = path.stat().st_size, self._records[name].bytes
        if size != expected:
            raise GmosError(f"{path} has {size} bytes, expected {expected}; copy the bundle again")
        return path


def is_plain(name: str) -> bool:
    """Whether a name is a relative path without steps upwards, whatever system wrote it."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if not name or "\0" in name or posix.is_absolute() or windows.drive or windows.root:
        return False
    return ".." not in windows.parts


def external_locations(model: Path, content: bytes | None = None) -> set[str]:
    """The `location` of every external tensor of a model, as written in it; its content is read if it is not given.

    Raises:
        GmosError: the file cannot be read or is not an ONNX model.
    """
    try:
        data = memoryview(model.read_bytes() if content is None else content)
        return set(_locations(data, "model"))
    except OSError as error:
        raise GmosError(f"{model} cannot be read ({error.strerror}); expected an ONNX model") from error
    except (ValueError, IndexError) as error:
        raise GmosError(f"{model} is not an ONNX model; copy the bundle again, or export it again") from error


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    for number, content in _fields(message):
        child = CHILDREN[kind].get(number)
        if child == "external":
            entry = dict(_fields(content))
            if bytes(entry.get(EXTERNAL_KEY, b"")) == b"location":
                yield bytes(entry.get(EXTERNAL_VALUE, b"")).decode()
        elif child is not None:
            yield from _locations(content, child)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the length-delimited fields of a message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == BYTES:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("truncated message")
            yield tag >> 3, message[at : at + length]
            at += length
        elif wire == VARINT:
            _, at = _varint(message, at)
        elif wire in (FIXED32, FIXED64):
            at += 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
