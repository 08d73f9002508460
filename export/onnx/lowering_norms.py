"""Channel norms in the form that ONNX Runtime's CPU kernels are fast at."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape

from ...runtime.bundle.manifest import Target
from .lowering import FLOAT, constant, replace_node

TO_LAST, FROM_LAST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Channels of a (B, C, H, W) map moved to the end, and back."""

DEFAULT_EPSILON = 1e-5
"""Of ONNX's LayerNormalization."""


def lower_channel_norms(model: ir.Model, target: Target) -> None:
    """Rewrite float32 norms over the channels of a map for ONNX Runtime, in place.

    Its LayerNormalization goes row by row, and a row of SAM2's mask encoder has 4 to 64 channels, moved to
    the end before and back afterwards. Means over axis 1 run along the pixels. In half precision the one
    operator stays: it sums in float32.
    """
    if target != "onnxruntime":
        return
    for back in list(model.graph):
        norm = _maker(back.inputs[0]) if _transposes(back, FROM_LAST) else None
        if norm is None or (norm.domain, norm.op_type) != ("", "LayerNormalization"):
            continue
        first = _maker(norm.inputs[0])
        if (
            first is None
            or not _transposes(first, TO_LAST)
            or norm.attributes.get_int("axis", -1) not in (-1, 3)
        ):
            continue
        x = first.inputs[0]
        if x is None or x.dtype != FLOAT:
            continue
        tape = Tape()
        replace_node(model.graph, back, tape, _over_channels(tape, x, norm))
    RemoveUnusedNodesPass()(model)


def _maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _transposes(node: ir.Node, perm: tuple[int, ...]) -> bool:
    return (node.domain, node.op_type) == ("", "Transpose") and tuple(
        node.attributes.get_ints("perm", [])
    ) == perm


def _over_channels(tape: Tape, x: ir.Value, norm: ir.Node) -> ir.Value:
    """The norm of (B, C, H, W) over axis 1."""

    def mean(value: ir.Value) -> ir.Value:
        return tape.op("ReduceMean", [value, constant(tape, [1], ir.DataType.INT64)], {"keepdims": 1})

    def per_channel(value: ir.Value) -> ir.Value:
        return tape.op("Reshape", [value, constant(tape, [1, -1, 1, 1], ir.DataType.INT64)])

    epsilon = constant(tape, norm.attributes.get_float("epsilon", DEFAULT_EPSILON), FLOAT)
    centred = tape.op("Sub", [x, mean(x)])
    variance = mean(tape.op("Mul", [centred, centred]))
    spread = tape.op("Sqrt", [tape.op("Add", [variance, epsilon])])
    result = tape.op("Div", [centred, spread])
    scale, *bias = [value for value in norm.inputs[1:] if value is not None]
    result = tape.op("Mul", [result, per_channel(scale)])
    return tape.op("Add", [result, per_channel(bias[0])]) if bias else result
