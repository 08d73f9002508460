"""Quantised layers in the form that ONNX Runtime's integer kernels take."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..quantiser.linear_layers import constant
from .graph_edits import add_constant, insert_behind

UINT8_MIDDLE = 128
"""Zero point of a tensor in uint8 whose steps are those of int8 about 0."""


def use_integer_kernels(model: ir.Model) -> None:
    """Let the quantised layers of a graph in half precision read uint8 and float32 and give float32, in place.

    ONNX Runtime's CPU provider fuses a product between Q/DQ pairs into an integer kernel in float32 only, and where
    several layers read a tensor only with uint8 (128 stands for zero: the same steps). Otherwise it restores the
    weights in each call, and before 1.30 its QuantizeLinear cuts float16 off where it should round (ONNX Runtime pull
    request 32452). Weight-only layers stay as they are.
    """
    graph = model.graph
    layers = [
        node
        for node in graph
        if node.op_type == "MatMul" and not node.domain and all(_restored(value) for value in node.inputs)
    ]
    for node in list(graph):
        if node.op_type == "QuantizeLinear":
            _read_float32(graph, node)
            _shift_zero(graph, node)
    for node in layers:
        for value in node.inputs:
            maker = None if value is None else value.producer()
            if value is not None and maker is not None and value.dtype != ir.DataType.FLOAT:
                _widen_scale(graph, maker)
                value.type = ir.TensorType(ir.DataType.FLOAT)
        _give_half(graph, node)
    RemoveUnusedNodesPass()(model)


def _restored(value: ir.Value | None) -> bool:
    maker = None if value is None else value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"


def _read_float32(graph: ir.Graph, node: ir.Node) -> None:
    cast = ir.node(
        "Cast", [node.inputs[0]], attributes={"to": int(ir.DataType.FLOAT)}, name=f"{node.name}/Cast"
    )
    wide = cast.outputs[0]
    wide.name, wide.type = f"{node.outputs[0].name}.wide", ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, cast)
    node.replace_input_with(0, wide)
    _widen_scale(graph, node)


def _shift_zero(graph: ir.Graph, node: ir.Node) -> None:
    """Quantise to uint8 about 128, and restore from it."""
    quantised = node.outputs[0]
    name = f"{quantised.name}.middle"
    zero = add_constant(graph, name, np.array(UINT8_MIDDLE, np.uint8))
    quantised.type = ir.TensorType(ir.DataType.UINT8)
    for each in (node, *(reader for reader, _ in tuple(quantised.uses()))):
        each.replace_input_with(2, zero)


def _widen_scale(graph: ir.Graph, node: ir.Node) -> None:
    """Give a QuantizeLinear or DequantizeLinear its scale in float32."""
    scale = node.inputs[1]
    values = None if scale is None else constant(scale)
    if scale is None or values is None:
        raise TypeError(f"{node.name} has no constant scale")
    name = f"{scale.name}.wide"
    if name not in graph.initializers:
        add_constant(graph, name, values.astype(np.float32))
    node.replace_input_with(1, graph.initializers[name])


def _give_half(graph: ir.Graph, node: ir.Node) -> None:
    """Cast the output of a layer back for all that read it."""
    product = node.outputs[0]
    cast = ir.node("Cast", [product], attributes={"to": int(ir.DataType.FLOAT16)}, name=f"{node.name}/Cast")
    half = cast.outputs[0]
    half.name, half.type, half.shape = f"{product.name}.half", product.type, product.shape
    product.type = ir.TensorType(ir.DataType.FLOAT)
    insert_behind(graph, product, cast, renamed=f"{product.name}.wide")
