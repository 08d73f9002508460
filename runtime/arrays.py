"""Arrays between the networks: what is done with them, whatever holds them; and NumPy's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .host_memory import free_host_bytes

Array = Any
"""An array of a backend, usually on its device. The pipeline hands it on and never looks inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostArray:
    """An array parked in host memory: its bytes, and what is needed to restore it.

    `data` is one-dimensional uint8 and may be pinned memory that the backend allocated.
    `dtype` is the backend's own name, since numpy has no bfloat16.
    """

    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    dtype: str


class Arrays(Protocol):
    """The few operations between networks on arrays of one kind in one place."""

    def upload(self, host: NDArray[np.generic]) -> Array:
        """A device array of the same shape, dtype and values."""
        ...

    def download(self, array: Array) -> NDArray[Any]:
        """The values as numpy; half precision becomes float32."""
        ...

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Arrays of one shape along a new first axis."""
        ...

    def stack_rows(self, rows: Sequence[Sequence[Array]]) -> Array:
        """Equally long rows of arrays of one shape along two new axes in front."""
        ...

    def unstack(self, array: Array) -> Sequence[Array]:
        """The slices along the first axis, without that axis."""
        ...

    def download_all(self, arrays: Sequence[Array]) -> list[NDArray[Any]]:
        """The values of several arrays; they are waited for once."""
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

    def free_bytes(self) -> int:
        """Device memory that is free now; on a CPU, host memory."""
        ...

    def synchronize(self) -> None:
        """Wait until everything started so far is done."""
        ...


class SimpleArrays:
    """What can be said in terms of the others, for arrays that gain nothing from saying it otherwise."""

    def stack_rows(self: Arrays, rows: Sequence[Sequence[Array]]) -> Array:
        """Row by row."""
        return self.stack([self.stack(row) for row in rows])

    def download_all(self: Arrays, arrays: Sequence[Array]) -> list[NDArray[Any]]:
        """One by one."""
        return [self.download(array) for array in arrays]


class NumpyArrays(SimpleArrays):
    """Arrays in host memory. Nothing is copied that need not be, and nothing has to be waited for."""

    def upload(self, host: NDArray[np.generic]) -> NDArray[np.generic]:
        """The array itself, if it is contiguous."""
        return np.ascontiguousarray(host)

    def download(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself, unless it is in half precision."""
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def stack(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """A copy with a new first axis."""
        return np.stack(arrays)

    def unstack(self, array: NDArray[Any]) -> Sequence[NDArray[Any]]:
        """Views."""
        return list(array)

    def nbytes(self, array: NDArray[Any]) -> int:
        """Bytes of the values."""
        return array.nbytes

    def to_host(self, array: NDArray[Any]) -> HostArray:
        """A copy: the source may change afterwards."""
        data = np.array(array, order="C").reshape(-1).view(np.uint8)
        return HostArray(data=data, shape=array.shape, dtype=array.dtype.name)

    def from_host(self, parked: HostArray) -> NDArray[Any]:
        """A view of the parked bytes."""
        return parked.data.view(parked.dtype).reshape(parked.shape)

    def free_bytes(self) -> int:
        """Host memory that is free now."""
        return free_host_bytes()

    def synchronize(self) -> None:
        """Nothing is ever under way."""


def by_frame(arrays: Arrays, batch: Mapping[str, Array], names: Iterable[str]) -> list[dict[str, Array]]:
    """Split batched outputs into one dict per batch element."""
    columns = {name: arrays.unstack(batch[name]) for name in names}
    count = len(next(iter(columns.values())))
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]
