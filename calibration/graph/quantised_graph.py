"""Writes Q/DQ pairs into a graph: eight-bit weights, and eight-bit tensors where quantised layers read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...runtime.bundle.manifest import Target
from ..quantiser.formats import Format
from ..quantiser.layer_choice import ActivationChoice, StoredLayer
from ..quantiser.linear_layers import constant, weight_of
from .graph_edits import add_constant, insert_behind
from .integer_kernels import use_integer_kernels

Array = NDArray[Any]


def quantise(
    model: ir.Model,
    choices: Iterable[ActivationChoice],
    form: Format,
    *,
    excluded: Collection[str] = (),
    target: Target = "standard",
) -> None:
    """Quantise the layers of a graph in place.

    Everything is explicit: a QuantizeLinear and DequantizeLinear pair on an activation, after the mean shift where that
    was chosen, a DequantizeLinear on a weight that is stored in eight bits, and a bias correction that makes up for
    both. Scales are float16, so what comes back is in the graph's precision. Excluded layers read what they did;
    their weights are stored in eight bits where the choices have such.

    Args:
        model: the graph; node names are those that the choices name.
        choices: of its activations.
        form: eight bits of which kind.
        excluded: nodes of layers that stay in half precision.
        target: which form of the network the graph is; layers in whole numbers take ONNX Runtime's kernels there.
    """
    graph = model.graph
    nodes = {node.name or "": node for node in graph}
    for choice in choices:
        chosen = [layer.node for layer in choice.activation.layers if layer.node not in excluded]
        weight_only = [node for node in choice.weight_only if node in excluded]
        if not chosen and not weight_only:
            continue
        if choice.factors is not None:
            _smooth(graph, nodes, choice, excluded)
        for name in weight_only:
            _store(graph, nodes[name], choice.weight_only[name])
        if not chosen:
            continue
        first = min((nodes[name] for name in chosen), key=_positions(graph).__getitem__)
        seen = _pair(graph, first, choice, form)
        for name in chosen:
            nodes[name].replace_input_with(0, seen)
            _store(graph, nodes[name], choice.quantised[name])
    RemoveUnusedNodesPass()(model)
    if target == "onnxruntime" and not form.floating:
        use_integer_kernels(model)


def _positions(graph: ir.Graph) -> Mapping[ir.Node, int]:
    return {node: number for number, node in enumerate(graph)}


def _smooth(
    graph: ir.Graph, nodes: Mapping[str, ir.Node], choice: ActivationChoice, excluded: Collection[str]
) -> None:
    """Divide the channels of a normalisation and multiply the rows of the weights that stay in half precision."""
    factors = choice.factors
    if factors is None or choice.activation.norm is None:
        return
    for value in nodes[choice.activation.norm].inputs[1:]:
        if value is not None and value.const_value is not None:
            _set(value, np.asarray(value.const_value.numpy(), np.float32) / factors)
    for layer in choice.activation.layers:
        if layer.node in excluded and layer.node not in choice.weight_only:
            node = nodes[layer.node]
            weight = np.asarray(weight_of(node), np.float32) * factors[:, None]
            value = add_constant(graph, f"{layer.node}.balanced", weight.astype(np.float16))
            node.replace_input_with(1, value)


def _pair(graph: ir.Graph, first: ir.Node, choice: ActivationChoice, form: Format) -> ir.Value:
    name = choice.activation.name
    source = _known(first.inputs[0])
    if choice.mean_shift is not None:
        mean_shift = add_constant(graph, f"{name}.centre", choice.mean_shift)
        mean_shifted = ir.node("Sub", [source, mean_shift], name=f"{name}/Sub")
        source = _typed(mean_shifted.outputs[0], f"{name}.centred", source)
        graph.insert_before(first, mean_shifted)
    scale = add_constant(graph, f"{name}.scale", form.scale(choice.threshold))
    zero = _zero(graph, f"{name}.zero", form, ())
    down = ir.node("QuantizeLinear", [source, scale, zero], name=f"{name}/QuantizeLinear")
    up = ir.node("DequantizeLinear", [down.outputs[0], scale, zero], name=f"{name}/DequantizeLinear")
    down.outputs[0].name, up.outputs[0].name = f"{name}.quantised", f"{name}.dequantised"
    graph.insert_before(first, [down, up])
    return up.outputs[0]


def _store(graph: ir.Graph, node: ir.Node, layer: StoredLayer) -> None:
    node.replace_input_with(1, _weight(graph, node, layer))
    if layer.bias_correction is not None:
        _correct(graph, node, layer.bias_correction)


def _weight(graph: ir.Graph, node: ir.Node, layer: StoredLayer) -> ir.Value:
    form = layer.form
    stored = add_constant(graph, f"{node.name}.quantised", layer.weight, form.dtype)
    scale = add_constant(graph, f"{node.name}.scale", layer.scale)
    zero = _zero(graph, f"{node.name}.zero", form, np.shape(layer.scale))
    attributes = {"axis": 1} if form.per_channel else {}
    up = ir.node(
        "DequantizeLinear", [stored, scale, zero], attributes=attributes, name=f"{node.name}/DequantizeLinear"
    )
    up.outputs[0].name = f"{node.name}.dequantised"
    graph.insert_before(node, up)
    return up.outputs[0]


def _correct(graph: ir.Graph, node: ir.Node, bias_correction: Array) -> None:
    """Add to the output of a layer: to its bias, if it has one."""
    product = node.outputs[0]
    name = f"{node.name}.correction"
    bias = _bias(product)
    if bias is not None:
        reader, index, values = bias
        corrected = values.astype(np.float32) + bias_correction
        reader.replace_input_with(index, add_constant(graph, name, corrected.astype(np.float16)))
        return
    constant = add_constant(graph, name, bias_correction.astype(np.float16))
    added = ir.node("Add", [product, constant], name=f"{node.name}/Add")
    _typed(added.outputs[0], f"{node.name}.corrected", product)
    insert_behind(graph, product, added, renamed=f"{node.name}.product")


def _bias(product: ir.Value) -> tuple[ir.Node, int, Array] | None:
    """The only reader of a product, if it adds one constant per channel; which input that is, and its values."""
    uses = tuple(product.uses())
    if len(uses) != 1 or product.is_graph_output():
        return None
    reader, index = uses[0]
    if reader.op_type != "Add" or reader.domain:
        return None
    values = constant(_known(reader.inputs[1 - index]))
    return (reader, 1 - index, values) if values is not None and values.ndim == 1 else None


def _typed(value: ir.Value, name: str, like: ir.Value) -> ir.Value:
    value.name, value.type, value.shape = name, like.type, like.shape
    return value


def _known(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise TypeError("a layer lacks an input")
    return value


def _zero(graph: ir.Graph, name: str, form: Format, shape: tuple[int, ...]) -> ir.Value:
    """Zero points: they say which eight bits are meant, and TensorRT takes no other."""
    return add_constant(
        graph, name, form.rounded(np.zeros(shape, np.float32), np.ones((), np.float32)), form.dtype
    )


def _set(value: ir.Value, values: Array) -> None:
    value.const_value = ir.Tensor(values.astype(np.float16), name=value.name)
