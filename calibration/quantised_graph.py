"""Writes Q/DQ pairs into a graph: eight-bit weights, and eight-bit tensors where quantised layers read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from .formats import Format
from .layer_choice import SiteChoice, weight_scale
from .linears import Linear, weight_of

Array = NDArray[Any]


def quantise(
    model: ir.Model, choices: Iterable[SiteChoice], form: Format, *, kept: Collection[str] = ()
) -> None:
    """Quantise the layers of a graph in place.

    Everything is explicit: a QuantizeLinear and DequantizeLinear pair on what a layer reads, and a DequantizeLinear
    on a weight that is stored in eight bits. Scales are float16, so what comes back is in the graph's precision.

    Args:
        model: the graph; node names are those that the choices name.
        choices: of its sites.
        form: eight bits of which kind.
        kept: nodes that stay in half precision.
    """
    graph = model.graph
    nodes = {node.name or "": node for node in graph}
    for choice in choices:
        chosen = [linear for linear in choice.site.linears if linear.node not in kept]
        if not chosen:
            continue
        weights = {linear.node: weight_of(nodes[linear.node]) for linear in choice.site.linears}
        if choice.factors is not None:
            _balance(graph, nodes, choice, weights)
        first = min((nodes[linear.node] for linear in chosen), key=_positions(graph).__getitem__)
        seen = _pair(graph, first, choice, form)
        for linear in chosen:
            node = nodes[linear.node]
            stored = _weight(graph, node, linear, weights[linear.node], form)
            node.replace_input_with(0, seen)
            node.replace_input_with(1, stored)
    RemoveUnusedNodesPass()(model)


def _positions(graph: ir.Graph) -> Mapping[ir.Node, int]:
    return {node: number for number, node in enumerate(graph)}


def _balance(
    graph: ir.Graph, nodes: Mapping[str, ir.Node], choice: SiteChoice, weights: dict[str, Array]
) -> None:
    """Divide the channels of a normalisation and multiply the rows of the weights that read it."""
    factors = choice.factors
    if factors is None or choice.site.norm is None:
        return
    for value in nodes[choice.site.norm].inputs[1:]:
        if value is not None and value.const_value is not None:
            _set(value, np.asarray(value.const_value.numpy(), np.float32) / factors)
    for linear in choice.site.linears:
        # In float32: a product that is kept in half is rounded once, a quantised one not before.
        weights[linear.node] = np.asarray(weights[linear.node], np.float32) * factors[:, None]
        node = nodes[linear.node]
        value = _constant(graph, f"{linear.node}.balanced", weights[linear.node].astype(np.float16))
        node.replace_input_with(1, value)


def _pair(graph: ir.Graph, first: ir.Node, choice: SiteChoice, form: Format) -> ir.Value:
    name = choice.site.name
    source = first.inputs[0]
    scale = _constant(graph, f"{name}.scale", form.scale(choice.threshold))
    zero = _zero(graph, f"{name}.zero", form, ())
    down = ir.node("QuantizeLinear", [source, scale, zero], name=f"{name}/QuantizeLinear")
    up = ir.node("DequantizeLinear", [down.outputs[0], scale, zero], name=f"{name}/DequantizeLinear")
    down.outputs[0].name, up.outputs[0].name = f"{name}.quantised", f"{name}.dequantised"
    graph.insert_before(first, [down, up])
    return up.outputs[0]


def _weight(graph: ir.Graph, node: ir.Node, linear: Linear, weight: Array, form: Format) -> ir.Value:
    scales = weight_scale(weight, form)
    stored = _constant(graph, f"{linear.node}.quantised", form.rounded(weight, scales), form.dtype)
    scale = _constant(graph, f"{linear.node}.scale", scales)
    zero = _zero(graph, f"{linear.node}.zero", form, np.shape(scales))
    attributes = {"axis": 1} if form.per_channel else {}
    up = ir.node(
        "DequantizeLinear",
        [stored, scale, zero],
        attributes=attributes,
        name=f"{linear.node}/DequantizeLinear",
    )
    up.outputs[0].name = f"{linear.node}.dequantised"
    graph.insert_before(node, up)
    return up.outputs[0]


def _zero(graph: ir.Graph, name: str, form: Format, shape: tuple[int, ...]) -> ir.Value:
    """Zero points: they say which eight bits are meant, and TensorRT takes no other."""
    return _constant(
        graph, name, form.rounded(np.zeros(shape, np.float32), np.ones((), np.float32)), form.dtype
    )


def _constant(graph: ir.Graph, name: str, values: Array, dtype: ir.DataType | None = None) -> ir.Value:
    tensor = ir.Tensor(np.asarray(values, order="C"), dtype=dtype, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()))
    value.const_value = tensor
    graph.register_initializer(value)
    return value


def _set(value: ir.Value, values: Array) -> None:
    value.const_value = ir.Tensor(values.astype(np.float16), name=value.name)
