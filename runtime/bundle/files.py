"""The files of a bundle: inside its directory, whole and unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from ...errors import GmosError
from ..files.checkpoint_identity import file_sha256
from ..files.typed_json import Whole
from .private_read import private_read

NAME_BYTES, DEPTH = 255, 8
"""Of a file's name at most, as file systems have it; folders around a file."""

OURS = ".gmos-"
"""How names of what is not a part of the bundle begin, in a directory that keeps its place."""


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
    """Whether a name is a relative path without steps upwards that a file can have, whatever system wrote it."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if (
        any(len(part.encode(errors="replace")) > NAME_BYTES for part in posix.parts)
        or len(posix.parts) > DEPTH
    ):
        return False
    if not name or "\0" in name or posix.is_absolute() or windows.drive or windows.root:
        return False
    return ".." not in windows.parts
