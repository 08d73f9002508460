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

    def between(self, first: Array, last: Array, shares: Sequence[float]) -> list[Array]:
        """Arrays of the same shape and dtype on the way from one to another, at each share of it from 0 to 1."""
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

    def between(self: Arrays, first: Array, last: Array, shares: Sequence[float]) -> list[Array]:
        """On the host."""
        return between_on_host(self, first, last, shares)


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


def between_on_host(arrays: Arrays, first: Array, last: Array, shares: Sequence[float]) -> list[Array]:
    """`Arrays.between`, computed by the host in float32, for arrays whose device has nothing to compute it with."""
    ends = [arrays.to_host(array) for array in (first, last)]
    start, end = (one.data.view(one.dtype).reshape(one.shape).astype(np.float32) for one in ends)
    dtype, step = ends[0].dtype, end - start
    found = []
    for share in shares:
        values = np.ascontiguousarray(start + np.float32(share) * step).astype(dtype)
        parked = HostArray(data=values.reshape(-1).view(np.uint8), shape=values.shape, dtype=dtype)
        found.append(arrays.from_host(parked))
    return found


def by_frame(arrays: Arrays, batch: Mapping[str, Array], names: Iterable[str]) -> list[dict[str, Array]]:
    """Split batched outputs into one dict per batch element."""
    columns = {name: arrays.unstack(batch[name]) for name in names}
    count = len(next(iter(columns.values())))
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]
