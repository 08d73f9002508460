"""Host values as the arrays that a network takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, Arrays, HostArray
from .manifest import BundleTensor

Dtypes = Mapping[str, str]
"""dtype of each input of a network, by the contract's names of dtypes; `HOST` for those that stay NumPy arrays."""

HOST = "host"


def dtypes_of(tensors: Iterable[BundleTensor]) -> dict[str, str]:
    """The dtypes of a network's inputs as a bundle describes them."""
    return {tensor.name: HOST if tensor.host else tensor.dtype for tensor in tensors}


def upload_inputs(arrays: Arrays, values: Mapping[str, NDArray[Any]], dtypes: Dtypes) -> dict[str, Any]:
    """Inputs of a network by name, on the device where they belong there."""
    return {
        name: array if dtypes[name] == HOST else upload_as(arrays, array, dtypes[name])
        for name, array in values.items()
    }


def upload_as(arrays: Arrays, values: NDArray[Any], dtype: str) -> Array:
    """Values on the device in a tensor's dtype, by the backend's own name for it.

    bfloat16 is the upper half of a float32, rounded to even; NumPy has no such type.
    """
    if dtype != "bfloat16":
        return arrays.upload(values.astype(dtype))
    data = rounded_to_bfloat16(values).reshape(-1).view(np.uint8)
    return arrays.from_host(HostArray(data=data, shape=values.shape, dtype=dtype))


def rounded_to_bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The upper halves of float32 values, rounded to even, in the same shape."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
