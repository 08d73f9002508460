"""Encoder features of every frame of a video within a byte budget: device, host memory, then a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ...errors import GmosError
from ..arrays import Array, Arrays, HostArray
from ..files.spill_file import SpillFile


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBudget:
    """How many bytes of features stay where, in bytes.

    `device` on the backend's device, then `host` in host memory; what is beyond goes to a temporary
    file in `spill_dir` (None: the system's temporary directory).
    """

    device: int
    host: int
    spill_dir: Path | None = None

    def __post_init__(self) -> None:
        for name in ("device", "host"):
            if getattr(self, name) < 0:
                raise GmosError(f"feature budget: {name} is {getattr(self, name)} bytes, expected 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnDisk:
    """Where an array lies in the spill file."""

    offset: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: str


class FeatureStore:
    """Maps a frame to its named arrays; frames are put once and read any number of times.

    A frame lies whole in one place: the first ones on the device, later ones in host memory, the
    rest in the file, so nothing that was placed moves again. The file has no name and is gone with
    the process.
    """

    def __init__(self, arrays: Arrays, budget: FeatureBudget) -> None:
        self._arrays = arrays
        self._budget = budget
        self._device: dict[int, dict[str, Array]] = {}
        self._host: dict[int, dict[str, HostArray]] = {}
        self._disk: dict[int, dict[str, _OnDisk]] = {}
        self._file = SpillFile(
            budget.spill_dir,
            content="features of the video",
            advice="name another place with --spill_dir, or raise --host_budget",
        )
        # The tracker asks for a frame once per object: a parked frame is brought back once.
        self._returned: tuple[int, dict[str, Array]] | None = None
        self.device_bytes = 0
        self.host_bytes = 0
        self.disk_bytes = 0

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop every feature and the spill file."""
        self._device.clear()
        self._host.clear()
        self._disk.clear()
        self._returned = None
        self._file.close()

    def put(self, frame: int, arrays: Mapping[str, Array]) -> None:
        """Keep the arrays of a frame.

        Raises:
            GmosError: the spill file cannot be written.
        """
        size = sum(self._arrays.nbytes(array) for array in arrays.values())
        if self.device_bytes + size <= self._budget.device:
            self._device[frame] = dict(arrays)
            self.device_bytes += size
            return
        parked = {name: self._arrays.to_host(array) for name, array in arrays.items()}
        if self.host_bytes + size <= self._budget.host:
            self._host[frame] = parked
            self.host_bytes += size
        else:
            self._disk[frame] = {name: self._spill(array) for name, array in parked.items()}

    def get(self, frame: int) -> dict[str, Array]:
        """The arrays of a frame on the device.

        Raises:
            KeyError: the frame was never put.
        """
        if frame in self._device:
            return self._device[frame]
        if self._returned is not None and self._returned[0] == frame:
            return self._returned[1]
        parked = self._host.get(frame)
        if parked is None:
            parked = {name: self._load(place) for name, place in self._disk[frame].items()}
        arrays = {name: self._arrays.from_host(array) for name, array in parked.items()}
        self._returned = (frame, arrays)
        return arrays

    def _spill(self, array: HostArray) -> _OnDisk:
        offset = self._file.append(array.data.tobytes())
        self.disk_bytes = self._file.nbytes
        return _OnDisk(offset=offset, nbytes=array.data.nbytes, shape=array.shape, dtype=array.dtype)

    def _load(self, place: _OnDisk) -> HostArray:
        data = self._file.read(place.offset, place.nbytes)
        return HostArray(data=data, shape=place.shape, dtype=place.dtype)
