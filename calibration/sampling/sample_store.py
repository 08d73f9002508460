"""Samples on disk: one file per call, and a record per video that is written when the video is finished."""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...errors import GmosError
from ...runtime.atomic_file import writing
from ...runtime.contract import NetworkName
from .own_files import UNREADABLE, as_json, check_own, read_arrays, read_json, write_arrays, write_json

SCHEMA = "gmos-calibration-samples/1"
RECORD = "video.json"
FOLDER = re.compile(r"video-[0-9a-f]{8}")

Inputs = Mapping[str, NDArray[Any]]


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
        except UNREADABLE as error:
            raise GmosError(
                f"sample {self.path} cannot be read ({error}); remove its directory and run again"
            ) from error


class SampleStore:
    """The directory of the samples of a calibration."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self) -> None:
        """Refuse a place that holds something else.

        Raises:
            GmosError: it is a file, or a directory with other files.
        """
        check_own(
            self.root,
            lambda entry: entry.is_dir() and FOLDER.fullmatch(entry.name) is not None,
            given=f"--samples {self.root}",
            file="; expected a directory",
            foreign=", which is no sample; expected a directory that is new, empty or of an earlier calibration",
        )

    def finished(self, video: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a video that was sampled with the same settings; None if there is none."""
        record = read_json(self._folder(video) / RECORD)
        if record is None or (record.get("schema"), record.get("settings")) != (SCHEMA, as_json(settings)):
            return None
        files = [entry["file"] for network in record["networks"].values() for entry in network["samples"]]
        return record if all((self._folder(video) / file).is_file() for file in files) else None

    def start(self, video: str) -> None:
        """Forget what there is of a video."""
        with writing(self.root):
            shutil.rmtree(self._folder(video), ignore_errors=True)
            self._folder(video).mkdir(parents=True)

    def write(self, video: str, network: NetworkName, index: int, inputs: Inputs) -> None:
        """Write the inputs of a call.

        Raises:
            GmosError: the file cannot be written.
        """
        write_arrays(self.path(video, network, index), inputs)

    def remove(self, video: str, network: NetworkName, index: int) -> None:
        """Remove a call that gave way to another."""
        self.path(video, network, index).unlink(missing_ok=True)

    def finish(self, video: str, record: Mapping[str, Any]) -> None:
        """Write the record of a video, the last of its files.

        Raises:
            GmosError: it cannot be written.
        """
        write_json(self._folder(video) / RECORD, {"schema": SCHEMA, **record}, indent=1)

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
