"""Seeded inputs of a network, to compare two implementations of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..contract import ModelSpec, NetworkName
from ..shapes import Lengths, size_of
from .manifest import BundleTensor

Array = NDArray[Any]

BLOB_SIGMA_SHARE = 0.06
"""Smoothing of mask logits, as a share of their side: objects, not noise."""
LOGIT_STD = 5.0


def seeded_inputs(
    name: NetworkName, tensors: tuple[BundleTensor, ...], model: ModelSpec, lengths: Lengths
) -> dict[str, Array]:
    """Inputs of a network as float32 or whole numbers, the same on every machine."""
    seed = zlib.crc32(f"{name} {sorted(lengths.items())}".encode())
    rng = np.random.default_rng(seed)
    return {tensor.name: _values(rng, tensor, model, lengths) for tensor in tensors}


def _values(rng: np.random.Generator, tensor: BundleTensor, model: ModelSpec, lengths: Lengths) -> Array:
    shape = size_of(tensor, lengths)
    if tensor.host:
        return np.array(shape, np.int64)
    special: dict[str, Callable[[], Array]] = {
        "frames": lambda: rng.integers(0, 256, shape, dtype=np.uint8),
        "prompt": lambda: (_blobs(rng, shape) > 0).astype(np.uint8),
        "mask_logits": lambda: _blobs(rng, shape),
        "foreground_logits": lambda: _blobs(rng, shape),
        "masks": lambda: _blobs(rng, shape),
        "memory_positions": lambda: rng.integers(0, model.memory_frames, shape),
        "pointer_distances": lambda: rng.uniform(-1, 1, shape).astype(np.float32),
        "prompted": lambda: rng.integers(0, 2, shape).astype(np.float32),
    }
    if tensor.name in special:
        return special[tensor.name]()
    return rng.standard_normal(shape, dtype=np.float32)


def _blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Smooth logits (..., m, m): around zero, with blobs on both sides of it."""
    sigma = BLOB_SIGMA_SHARE * shape[-1]
    noise = rng.standard_normal(shape, dtype=np.float32)
    smooth = ndimage.gaussian_filter(noise, (0,) * (len(shape) - 2) + (sigma, sigma), mode="wrap")
    scaled = LOGIT_STD * smooth / smooth.std(axis=(-2, -1), keepdims=True)
    return np.asarray(scaled, np.float32)
