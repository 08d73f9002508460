"""Samples on disk: one file per call, and a record per video that is written when the video is finished."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from ...errors import GmosError
from ...runtime.contract import NetworkName
from ...runtime.files.array_files import read_arrays
from ...runtime.files.atomic_file import replaced_at_end, writing
from ...runtime.files.typed_json import Whole, typed
from ...runtime.files.typed_json import read_json as read_any_json

SCHEMA = "gmos-calibration-samples/1"
RECORD = "video.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A recorded call: where it is, which call of which video it was, and what made it different."""

    path: Path
    video: str
    index: int
    kind: tuple[int, ...]

    def load(self) -> dict[str, NDArray[Any]]:
        """The inputs by name, in the precision in which they were recorded.

        Raises:
            GmosError: the file cannot be read.
        """
        try:
            return read_arrays(self.path)
        except (OSError, ValueError) as error:
            raise GmosError(
                f"sample {self.path} cannot be read ({error}); remove its directory and run again"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _SampleEntry:
    file: Annotated[str, Meta(pattern=r"^[\w.-]+$")]
    index: Whole
    kind: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _NetworkSamples:
    seen: Whole
    samples: tuple[_SampleEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _VideoRecord:
    """What is read of the record of a video."""

    networks: Mapping[str, _NetworkSamples]


class OwnDirectory:
    """A directory that a calibration keeps for itself: it is new, empty, or holds nothing but our own entries."""

    own: re.Pattern[str]
    """Names of our entries."""
    option = ""
    """What it was given with."""
    file_advice: str
    """End of the message where it is a file."""
    foreign_advice: str
    """End of the message where it holds another entry."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self) -> None:
        """Refuse a place that holds something else.

        Raises:
            GmosError: it is a file, or a directory with other files.
        """
        given = f"{self.option}{self.root}"
        if self.root.exists() and not self.root.is_dir():
            raise GmosError(f"{given} is a file{self.file_advice}")
        for entry in self.root.iterdir() if self.root.is_dir() else ():
            if not self.own.fullmatch(entry.name):
                raise GmosError(f"{given} holds {entry.name}{self.foreign_advice}")


class SampleStore(OwnDirectory):
    """The directory of the samples of a calibration."""

    own = re.compile(r"video-[0-9a-f]{8}|\..*\.gmos-tmp")
    option = "--samples "
    file_advice = "; expected a directory"
    foreign_advice = (
        ", which is no sample; expected a directory that is new, empty or of an earlier calibration"
    )

    def finished(self, video: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a video that was sampled with the same settings; None if there is none."""
        path = self._folder(video) / RECORD
        record = read_json(path)
        if record is None or (record.get("schema"), record.get("settings")) != (SCHEMA, as_json(settings)):
            return None
        try:
            known = typed(record, _VideoRecord, where=str(path), advice="")
        except GmosError:
            return None
        files = [entry.file for network in known.networks.values() for entry in network.samples]
        return record if all((self._folder(video) / file).is_file() for file in files) else None

    def start(self, video: str) -> None:
        """Forget what there is of a video."""
        with writing(self.root):
            shutil.rmtree(self._folder(video), ignore_errors=True)
            self._folder(video).mkdir(parents=True)

    def write(self, video: str, network: NetworkName, index: int, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Write the inputs of a call.

        Raises:
            GmosError: the file cannot be written.
        """
        with replaced_at_end(self.path(video, network, index)) as temporary, temporary.open("wb") as file:
            np.savez(file, **dict(inputs))  # type: ignore[arg-type]

    def finish(self, video: str, record: Mapping[str, Any]) -> None:
        """Write the record of a video, the last of its files.

        Raises:
            GmosError: it cannot be written.
        """
        write_json(self._folder(video) / RECORD, {"schema": SCHEMA, **record})

    def path(self, video: str, network: NetworkName, index: int) -> Path:
        """Where a call is."""
        return self._folder(video) / f"{network}-{index:06d}.npz"

    def samples(self, records: Mapping[str, Mapping[str, Any]], network: NetworkName) -> list[Sample]:
        """The samples of a network, from the records by video."""
        return [
            Sample(
                path=self._folder(video) / entry["file"],
                video=video,
                index=int(entry["index"]),
                kind=tuple(entry["kind"]),
            )
            for video, record in records.items()
            for entry in record["networks"].get(network, {"samples": []})["samples"]
        ]

    def _folder(self, video: str) -> Path:
        return self.root / f"video-{zlib.crc32(video.encode()):08x}"


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is none that can be read: what it tells of is then made again."""
    try:
        found = read_any_json(path, "")
    except (OSError, GmosError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object.

    Raises:
        GmosError: the file cannot be written.
    """
    with replaced_at_end(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def as_json(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """A value as it comes back from JSON, to compare with."""
    return json.loads(json.dumps(value))
