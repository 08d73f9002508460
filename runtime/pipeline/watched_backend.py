"""A backend whose network calls are watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import Array, Backend, HostArray, Runner
from ..contract import ModelSpec, NetworkName
from ..tracker import FrameFeatures, Tracker
from .memory_tracker import MemoryTracker

Saw = Callable[[NetworkName, Mapping[str, Array], Mapping[str, Array]], None]
"""Gets a network with its inputs and outputs, as the backend keeps them: valid during the call only."""


class WatchedBackend:
    """A backend that shows every network call. Implements `Backend` on top of another one."""

    def __init__(self, backend: Backend, saw: Saw) -> None:
        self._backend = backend
        self._saw = saw

    @property
    def model(self) -> ModelSpec:
        """See `Backend`."""
        return self._backend.model

    @property
    def description(self) -> str:
        """See `Backend`."""
        return self._backend.description

    def runner(self, network: NetworkName) -> Runner:
        """See `Backend`."""
        run = self._backend.runner(network)

        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            outputs = run(inputs)
            self._saw(network, inputs, outputs)
            return outputs

        return call

    def upload(self, host: NDArray[np.generic]) -> Array:
        """See `Backend`."""
        return self._backend.upload(host)

    def download(self, array: Array) -> NDArray[Any]:
        """See `Backend`."""
        return self._backend.download(array)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """See `Backend`."""
        return self._backend.stack(arrays)

    def unstack(self, array: Array) -> Sequence[Array]:
        """See `Backend`."""
        return self._backend.unstack(array)

    def nbytes(self, array: Array) -> int:
        """See `Backend`."""
        return self._backend.nbytes(array)

    def to_host(self, array: Array) -> HostArray:
        """See `Backend`."""
        return self._backend.to_host(array)

    def from_host(self, parked: HostArray) -> Array:
        """See `Backend`."""
        return self._backend.from_host(parked)

    def free_device_bytes(self) -> int:
        """See `Backend`."""
        return self._backend.free_device_bytes()

    def tracker(self, features: FrameFeatures, *, frames: int, video_hw: tuple[int, int]) -> Tracker:
        """See `Backend`; always the tracker of five networks, so that they are seen."""
        return MemoryTracker(self, features, frames=frames, video_hw=video_hw)

    def synchronize(self) -> None:
        """See `Backend`."""
        self._backend.synchronize()

    def close(self) -> None:
        """See `Backend`."""
        self._backend.close()
