"""Edits of a graph that several steps of quantising it make."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def add_constant(
    graph: ir.Graph, name: str, values: NDArray[Any], dtype: ir.DataType | None = None
) -> ir.Value:
    """An initializer with these values; `dtype` where NumPy's does not tell."""
    tensor = ir.Tensor(np.asarray(values, order="C"), dtype=dtype, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()))
    value.const_value = tensor
    graph.register_initializer(value)
    return value


def insert_behind(graph: ir.Graph, product: ir.Value, node: ir.Node, *, renamed: str) -> None:
    """Let the output of a node whose first input is `product` take its place everywhere else.

    Where that is an output of the graph, the graph keeps its name and the product is `renamed`.
    """
    maker = product.producer()
    if maker is None:
        raise TypeError(f"no node makes {product.name}")
    output = node.outputs[0]
    if product.is_graph_output():
        product.name, output.name = renamed, product.name
    ir.convenience.replace_all_uses_with(product, output, replace_graph_outputs=True)
    node.replace_input_with(0, product)
    graph.insert_after(maker, node)
