"""The arrays of the ONNX Runtime backend in host memory: NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..backend import Array, HostArray
from ..host_memory import free_host_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedGraph:
    """An `onnxruntime.InferenceSession` and the `RunOptions` of its calls; the package has no types."""

    session: Any
    run_options: Any | None = None


class Memory(Protocol):
    """Where arrays live, and how a session reads and writes them there."""

    def run(self, graph: LoadedGraph, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a graph. Inputs are arrays of this memory, or NumPy arrays."""
        ...

    def upload(self, host: NDArray[np.generic]) -> Array:
        """See `runtime.backend.Backend`."""
        ...

    def download(self, array: Array) -> NDArray[Any]:
        """See `runtime.backend.Backend`."""
        ...

    def stack(self, arrays: Sequence[Array]) -> Array:
        """See `runtime.backend.Backend`."""
        ...

    def unstack(self, array: Array) -> Sequence[Array]:
        """See `runtime.backend.Backend`."""
        ...

    def batch_of_one(self, array: Array) -> Array:
        """The same values with a new first axis of length 1."""
        ...

    def nbytes(self, array: Array) -> int:
        """See `runtime.backend.Backend`."""
        ...

    def to_host(self, array: Array) -> HostArray:
        """See `runtime.backend.Backend`."""
        ...

    def from_host(self, parked: HostArray) -> Array:
        """See `runtime.backend.Backend`."""
        ...

    def free_bytes(self) -> int:
        """See `runtime.backend.Backend.free_device_bytes`."""
        ...

    def synchronize(self) -> None:
        """See `runtime.backend.Backend`."""
        ...


class HostMemory:
    """Host memory. ONNX Runtime reads NumPy arrays where they are."""

    def run(self, graph: LoadedGraph, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Memory.run`."""
        names = [output.name for output in graph.session.get_outputs()]
        feeds = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        return dict(zip(names, graph.session.run(names, feeds, graph.run_options), strict=True))

    def upload(self, host: NDArray[np.generic]) -> NDArray[np.generic]:
        """See `runtime.backend.Backend`."""
        return np.ascontiguousarray(host)

    def download(self, array: NDArray[Any]) -> NDArray[Any]:
        """See `runtime.backend.Backend`."""
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def stack(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """See `runtime.backend.Backend`."""
        return np.stack(arrays)

    def unstack(self, array: NDArray[Any]) -> Sequence[NDArray[Any]]:
        """See `runtime.backend.Backend`."""
        return list(array)

    def batch_of_one(self, array: NDArray[Any]) -> NDArray[Any]:
        """See `Memory.batch_of_one`."""
        return array[None]

    def nbytes(self, array: NDArray[Any]) -> int:
        """See `runtime.backend.Backend`."""
        return array.nbytes

    def to_host(self, array: NDArray[Any]) -> HostArray:
        """See `runtime.backend.Backend`."""
        data = np.array(array, order="C").reshape(-1).view(np.uint8)
        return HostArray(data=data, shape=array.shape, dtype=array.dtype.name)

    def from_host(self, parked: HostArray) -> NDArray[Any]:
        """See `runtime.backend.Backend`."""
        return parked.data.view(parked.dtype).reshape(parked.shape)

    def free_bytes(self) -> int:
        """See `Memory.free_bytes`."""
        return free_host_bytes()

    def synchronize(self) -> None:
        """See `runtime.backend.Backend`."""
