"""Arithmetic of a graph, counted before attention takes the form of a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir
import sympy

from .attend import ATTEND

Lengths = Mapping[str, int]


def count_flops(graph: ir.Graph, lengths: Lengths) -> float:
    """Floating-point operations of the products and convolutions, a multiply-add counted as two.

    Args:
        graph: with shapes on its values, as `capture` gives it.
        lengths: of the axes that vary, by letter.
    """
    return float(sum(_count(node, lengths) for node in graph))


def count_parameters(graph: ir.Graph) -> int:
    """Weights and constants that are floating-point numbers."""
    return sum(
        math.prod(value.const_value.shape.numpy())
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype.is_floating_point()
    )


def _count(node: ir.Node, lengths: Lengths) -> int:
    counter = COUNTERS.get(node.op_type)
    return 0 if counter is None else counter(node, lengths)


def _shape(value: ir.Value | None, lengths: Lengths) -> list[int]:
    if value is None or value.shape is None:
        raise TypeError(f"{value} has no shape: operations can be counted on a captured graph only")
    return [dim if isinstance(dim, int) else _evaluate(str(dim), lengths) for dim in value.shape]


def _evaluate(expression: str, lengths: Lengths) -> int:
    """The length of an axis that the exporter has written as an expression of letters."""
    symbols = {name: sympy.Integer(length) for name, length in lengths.items()}
    return int(sympy.sympify(expression, locals=symbols))


def _matmul(node: ir.Node, lengths: Lengths) -> int:
    return 2 * math.prod(_shape(node.outputs[0], lengths)) * _shape(node.inputs[0], lengths)[-1]


def _gemm(node: ir.Node, lengths: Lengths) -> int:
    transposed = node.attributes.get_int("transA", 0)
    inner = _shape(node.inputs[0], lengths)[0 if transposed else -1]
    return 2 * math.prod(_shape(node.outputs[0], lengths)) * inner


def _conv(node: ir.Node, lengths: Lengths) -> int:
    kernel = _shape(node.inputs[1], lengths)
    return 2 * math.prod(_shape(node.outputs[0], lengths)) * math.prod(kernel[1:])


def _conv_transpose(node: ir.Node, lengths: Lengths) -> int:
    kernel = _shape(node.inputs[1], lengths)
    return 2 * math.prod(_shape(node.inputs[0], lengths)) * math.prod(kernel[1:])


def _attend(node: ir.Node, lengths: Lengths) -> int:
    queries, values = _shape(node.inputs[0], lengths), _shape(node.inputs[2], lengths)
    return 2 * math.prod(queries[:-1]) * values[-2] * (queries[-1] + values[-1])


COUNTERS: dict[str, Callable[[ir.Node, Lengths], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    ATTEND: _attend,
}
