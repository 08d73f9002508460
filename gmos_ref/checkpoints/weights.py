"""Deterministic stand-in weights: each tensor is drawn from a generator seeded with its own key."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn

KEPT_BUFFERS = ("image_mean", "image_std")
"""Buffers with values of their own, by the last part of the key."""


def deterministic_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    """The float32 values of the parameter or buffer with that state-dict key and shape.

    Standard normals n of a generator seeded with the key's CRC-32, scaled so that activations stay
    finite through any depth: 1 + 0.1 n for one-axis weights and gammas, 0.1 n for other one-axis
    tensors, n / sqrt(fan-in) for weights, 0.5 n for other tensors, and n itself for a scalar.
    """
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    if not shape:
        return torch.tensor(generator.standard_normal(), dtype=torch.float32)
    normals = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
    last = key.rpartition(".")[2]
    if len(shape) == 1:
        normals.mul_(0.1)
        return normals.add_(1) if last in ("weight", "gamma") else normals
    return normals.div_(math.sqrt(math.prod(shape[1:]))) if last == "weight" else normals.mul_(0.5)


def _is_drawn(key: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and key.rpartition(".")[2] not in KEPT_BUFFERS


def deterministic_state(module: nn.Module) -> dict[str, Tensor]:
    """A whole state dict of deterministic values on the CPU; buffers that keep their values are copied."""
    return {
        key: deterministic_tensor(key, tuple(tensor.shape)) if _is_drawn(key, tensor) else tensor.clone()
        for key, tensor in module.state_dict().items()
    }


def fill_deterministic(module: nn.Module) -> None:
    """Give every parameter and persistent buffer its deterministic values, one tensor at a time.

    Tensors on the meta device get storage on the CPU, so a large network built under
    `torch.device("meta")` costs its own size once and no random initialisation. Others are written in
    place, whatever their device and dtype. Gradients are switched off.
    """
    for key, tensor in module.state_dict().items():
        if not _is_drawn(key, tensor):
            continue
        values = deterministic_tensor(key, tuple(tensor.shape))
        if not tensor.is_meta:
            tensor.copy_(values)
            continue
        owner_name, _, name = key.rpartition(".")
        owner = module.get_submodule(owner_name)
        if name in owner._parameters:
            values = nn.Parameter(values, requires_grad=False)
        setattr(owner, name, values)
    module.requires_grad_(False)
