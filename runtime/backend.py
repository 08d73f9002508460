"""What the pipeline asks of whatever runs the networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .contract import ModelSpec, NetworkName
from .tracker import FrameFeatures, Tracker

Array = Any
"""An array of the backend, usually on its device. The pipeline hands it on and never looks inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostArray:
    """A backend array parked in host memory: its bytes, and what is needed to restore it.

    `data` is one-dimensional uint8 and may be pinned memory that the backend allocated.
    `dtype` is the backend's own name, since numpy has no bfloat16.
    """

    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    dtype: str


class Runner(Protocol):
    """Runs one network."""

    def __call__(self, inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
        """Outputs by name for inputs by name, both as in the network's `NetworkSpec`.

        Inputs are the backend's arrays, except those that the contract marks `host`, which are numpy.
        """
        ...


class Backend(Protocol):
    """All runners of one model on one device, and the few array operations between them."""

    @property
    def model(self) -> ModelSpec:
        """Sizes of the networks."""
        ...

    @property
    def description(self) -> str:
        """One line for the summary: backend, device, precision."""
        ...

    def runner(self, network: NetworkName) -> Runner:
        """The runner of a network of this variant."""
        ...

    def upload(self, host: NDArray[np.generic]) -> Array:
        """A device array of the same shape, dtype and values."""
        ...

    def download(self, array: Array) -> NDArray[Any]:
        """The values as numpy; half precision becomes float32."""
        ...

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Arrays of one shape along a new first axis."""
        ...

    def unstack(self, array: Array) -> Sequence[Array]:
        """The slices along the first axis, without that axis."""
        ...

    def nbytes(self, array: Array) -> int:
        """Bytes the array holds on the device."""
        ...

    def to_host(self, array: Array) -> HostArray:
        """Park an array in (pinned) host memory."""
        ...

    def from_host(self, parked: HostArray) -> Array:
        """Bring a parked array back to the device."""
        ...

    def free_device_bytes(self) -> int:
        """Device memory that is free now; on a CPU, host memory."""
        ...

    def tracker(self, features: FrameFeatures, *, frames: int, video_hw: tuple[int, int]) -> Tracker:
        """A mask tracker over the stored features of one video. GMOS only."""
        ...

    def synchronize(self) -> None:
        """Wait until everything started so far is done."""
        ...

    def close(self) -> None:
        """Release the networks and the device memory."""
        ...


def by_frame(backend: Backend, arrays: Mapping[str, Array], names: Iterable[str]) -> list[dict[str, Array]]:
    """Split batched outputs into one dict per batch element."""
    columns = {name: backend.unstack(arrays[name]) for name in names}
    count = len(next(iter(columns.values())))
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]
