"""An array in the memory of a CUDA device, and what its bytes mean on the host."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import HostArray
from ..precision import ELEMENT_TYPES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceArray:
    """A contiguous array on the device; `owner` keeps its memory alive."""

    owner: object
    pointer: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return byte_count(self.shape, self.dtype)

    def rows(self, start: int, stop: int) -> DeviceArray:
        """The part [start:stop] along the first axis, in the same memory."""
        step = byte_count(self.shape[1:], self.dtype)
        return DeviceArray(
            owner=self.owner,
            pointer=self.pointer + start * step,
            shape=(stop - start, *self.shape[1:]),
            dtype=self.dtype,
        )

    def slices(self) -> list[DeviceArray]:
        """The slices along the first axis, without that axis, in the same memory."""
        shape = self.shape[1:]
        step = byte_count(shape, self.dtype)
        return [
            DeviceArray(owner=self.owner, pointer=self.pointer + i * step, shape=shape, dtype=self.dtype)
            for i in range(self.shape[0])
        ]


class DeviceArrays(ABC):
    """`runtime.arrays.Arrays` on a CUDA device, wherever its memory comes from and however copies are ordered."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """A new array; what is in it is undefined."""

    @abstractmethod
    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy an array's content."""

    @abstractmethod
    def written(self, raw: NDArray[np.uint8], shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """A new array of contiguous bytes."""

    @abstractmethod
    def read(self, array: DeviceArray) -> NDArray[np.uint8]:
        """The bytes of an array, once it is complete."""

    @abstractmethod
    def free_bytes(self) -> int:
        """What could be allocated now."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything started so far is done."""

    def upload(self, host: NDArray[np.generic]) -> DeviceArray:
        """As it looks, not as it lies: a view may have strides."""
        host = np.ascontiguousarray(host)
        return self.written(host.reshape(-1).view(np.uint8), host.shape, host.dtype.name)

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """Waits for this array; half precision becomes float32."""
        return host_values(self.read(array), array.shape, array.dtype)

    def stack(self, arrays: Sequence[DeviceArray]) -> DeviceArray:
        """Neighbours in memory, such as one array alone, are not copied."""
        first = arrays[0]
        shape = (len(arrays), *first.shape)
        if all(
            array.owner is first.owner and array.pointer == first.pointer + i * first.nbytes
            for i, array in enumerate(arrays)
        ):
            return DeviceArray(owner=first.owner, pointer=first.pointer, shape=shape, dtype=first.dtype)
        stacked = self.empty(shape, first.dtype)
        for target, array in zip(stacked.slices(), arrays, strict=True):
            self.copy(target, array)
        return stacked

    def unstack(self, array: DeviceArray) -> Sequence[DeviceArray]:
        """In the same memory."""
        return array.slices()

    def nbytes(self, array: DeviceArray) -> int:
        """Bytes of the elements; its memory may be larger."""
        return array.nbytes

    def to_host(self, array: DeviceArray) -> HostArray:
        """Waits for this array."""
        return HostArray(data=self.read(array), shape=array.shape, dtype=array.dtype)

    def from_host(self, parked: HostArray) -> DeviceArray:
        """From any bytes, those of a file that is mapped too."""
        return self.written(np.ascontiguousarray(parked.data), parked.shape, parked.dtype)


def byte_count(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of an array of that shape."""
    return math.prod(shape) * ELEMENT_TYPES[dtype].bytes


def host_values(raw: NDArray[np.uint8], shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """The values of an array's bytes; half precision becomes float32.

    Args:
        raw: contiguous bytes, one-dimensional.
        shape: of the array.
        dtype: of the array; `bfloat16` is a name here and no NumPy type.
    """
    if dtype == "bfloat16":
        # The upper half of a float32.
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    host = raw.view(dtype).reshape(shape)
    return host.astype(np.float32) if dtype == "float16" else host
