"""The tensors of a network as its graph has them: the contract's, then the tables of the video's size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from ...runtime.bundle.manifest import BundleTensor
from ...runtime.bundle.tables import table_specs
from ...runtime.contract import ModelSpec, NetworkName, TensorSpec, network_specs
from ...runtime.precision import PRECISIONS, PrecisionName
from ...runtime.shapes import PI3_AXES, letters_of, size_of

EXAMPLE_LENGTHS = {"B": 2, "O": 2, "h": 4, "w": 6, "R": 3, "P": 3}
"""Lengths while a network is captured. 0 and 1 would be taken as fixed, and equal ones as the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Inputs, tables and outputs of a network with their dtypes in memory."""

    name: NetworkName
    inputs: tuple[BundleTensor, ...]
    tables: tuple[BundleTensor, ...]
    outputs: tuple[BundleTensor, ...]

    @property
    def all_inputs(self) -> tuple[BundleTensor, ...]:
        """In the order of the graph."""
        return self.inputs + self.tables

    @property
    def letters(self) -> tuple[str, ...]:
        """The axes that vary, in the order in which they appear."""
        return letters_of(self.all_inputs)


def signature(name: NetworkName, model: ModelSpec, *, head_dim: int, precision: PrecisionName) -> Signature:
    """The signature of a network.

    Args:
        name: the network.
        model: sizes of the bundle's networks.
        head_dim: channels of an attention head of the Pi3 decoder.
        precision: of the networks on both sides of this one; `compute` tensors have it.
    """
    spec = network_specs(model)[name]

    def resolve(tensors: tuple[TensorSpec, ...]) -> tuple[BundleTensor, ...]:
        return tuple(
            BundleTensor(
                name=tensor.name,
                axes=tensor.axes,
                dtype=PRECISIONS[precision].dtype if tensor.dtype == "compute" else tensor.dtype,
                values=tensor.values,
                host=tensor.host,
            )
            for tensor in tensors
        )

    return Signature(
        name=name,
        inputs=resolve(spec.inputs),
        tables=resolve(table_specs(name, model, head_dim)),
        outputs=resolve(spec.outputs),
    )


def torch_dtype(name: str) -> torch.dtype:
    """PyTorch's element type of a tensor of a bundle."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def example_inputs(sign: Signature, lengths: Mapping[str, int], device: str = "cpu") -> tuple[Tensor, ...]:
    """Zeros of the right shapes and dtypes; on the device `meta` they have no values."""
    return tuple(
        torch.zeros(size_of(tensor, lengths), dtype=torch_dtype(tensor.dtype), device=device)
        for tensor in sign.all_inputs
    )


def dynamic_shapes(sign: Signature, patch_px: int) -> tuple[Mapping[int, Any], ...]:
    """Which axes of the inputs vary; those of a Pi3 frame are multiples of the patch."""
    dims: dict[str, Any] = {letter: Dim(letter, min=1) for letter in EXAMPLE_LENGTHS}
    dims["P"] = Dim("P", min=0)
    dims |= {pixels: patch_px * dims[grid] for pixels, grid in PI3_AXES.items()}
    return tuple(
        {i: dims[axis] for i, axis in enumerate(tensor.axes) if isinstance(axis, str)}
        for tensor in sign.all_inputs
    )
