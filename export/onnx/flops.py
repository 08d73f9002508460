"""Arithmetic and weights of a network, counted before attention takes the form of a target."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from .signature import Signature, example_inputs


def count_flops(module: nn.Module, sign: Signature, lengths: Mapping[str, int]) -> float:
    """Floating-point operations of the products and convolutions, a multiply-add counted as two.

    Counted by PyTorch on tensors without values: nothing is computed, at any size.

    Args:
        module: takes the signature's inputs in their order; left as it is.
        sign: its tensors.
        lengths: of the axes that vary, by letter.
    """
    state = {
        name: tensor.to("meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(module, state, example_inputs(sign, lengths, device="meta"))
    return float(counter.get_total_flops())


def count_parameters(graph: ir.Graph) -> int:
    """Weights and constants that are floating-point numbers."""
    return sum(
        math.prod(value.const_value.shape.numpy())
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype.is_floating_point()
    )
