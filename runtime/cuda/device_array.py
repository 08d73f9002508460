"""An array in the memory of a CUDA device, and what its bytes mean on the host."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        return self._part(start, (stop - start, *self.shape[1:]))

    def slices(self) -> list[DeviceArray]:
        """The slices along the first axis, without that axis, in the same memory."""
        return [self._part(i, self.shape[1:]) for i in range(self.shape[0])]

    def _part(self, first: int, shape: tuple[int, ...]) -> DeviceArray:
        step = byte_count(self.shape[1:], self.dtype)
        return replace(self, pointer=self.pointer + first * step, shape=shape)


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
