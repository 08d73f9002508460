"""Writes Q/DQ pairs into a graph: eight-bit weights, and eight-bit tensors where quantised layers read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...runtime.bundle.manifest import Target
from ..quantiser.formats import Format
from ..quantiser.layer_choice import ActivationChoice, StoredLayer
from ..quantiser.linear_layers import constant, input_of, weight_of

Array = NDArray[Any]

UINT8_MIDDLE = 128
"""Zero point of a tensor in uint8 whose steps are those of int8 about 0."""


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
        first = next(node for node in graph if node.name in chosen)
        seen = _pair(graph, first, choice, form)
        for name in chosen:
            nodes[name].replace_input_with(0, seen)
            _store(graph, nodes[name], choice.quantised[name])
    RemoveUnusedNodesPass()(model)
    if target == "onnxruntime" and not form.floating:
        use_integer_kernels(model)


def _smooth(
    graph: ir.Graph, nodes: Mapping[str, ir.Node], choice: ActivationChoice, excluded: Collection[str]
) -> None:
    """Divide the channels of a normalisation and multiply the rows of the weights that stay in half precision."""
    factors = choice.factors
    if factors is None or choice.activation.norm is None:
        return
    for value in nodes[choice.activation.norm].inputs[1:]:
        if value is not None and value.const_value is not None:
            divided = np.asarray(value.const_value.numpy(), np.float32) / factors
            value.const_value = ir.Tensor(divided.astype(np.float16), name=value.name)
    for layer in choice.activation.layers:
        if layer.node in excluded and layer.node not in choice.weight_only:
            node = nodes[layer.node]
            weight = np.asarray(weight_of(node), np.float32) * factors[:, None]
            value = add_constant(graph, f"{layer.node}.balanced", weight.astype(np.float16))
            node.replace_input_with(1, value)


def _pair(graph: ir.Graph, first: ir.Node, choice: ActivationChoice, form: Format) -> ir.Value:
    name = choice.activation.name
    source = input_of(first, 0)
    if choice.mean_shift is not None:
        mean_shift = add_constant(graph, f"{name}.centre", choice.mean_shift)
        mean_shifted = _node("Sub", [source, mean_shift], name, f"{name}.centred", like=source)
        graph.insert_before(first, mean_shifted)
        source = mean_shifted.outputs[0]
    scale = add_constant(graph, f"{name}.scale", form.scale(choice.threshold))
    zero = _zero(graph, f"{name}.zero", form, ())
    down = _node("QuantizeLinear", [source, scale, zero], name, f"{name}.quantised")
    up = _node("DequantizeLinear", [down.outputs[0], scale, zero], name, f"{name}.dequantised")
    graph.insert_before(first, [down, up])
    return up.outputs[0]


def _store(graph: ir.Graph, node: ir.Node, layer: StoredLayer) -> None:
    """Let a layer read its weight in eight bits, and correct its output where that is wanted."""
    form, name = layer.form, node.name or ""
    stored = add_constant(graph, f"{name}.quantised", layer.weight, form.dtype)
    scale = add_constant(graph, f"{name}.scale", layer.scale)
    zero = _zero(graph, f"{name}.zero", form, np.shape(layer.scale))
    axis = {"axis": 1} if form.per_channel else {}
    up = _node("DequantizeLinear", [stored, scale, zero], name, f"{name}.dequantised", attributes=axis)
    graph.insert_before(node, up)
    node.replace_input_with(1, up.outputs[0])
    if layer.bias_correction is not None:
        _correct(graph, node, layer.bias_correction)


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
    added = _node("Add", [product, constant], node.name or "", f"{node.name}.corrected", like=product)
    insert_behind(graph, product, added, renamed=f"{node.name}.product")


def _bias(product: ir.Value) -> tuple[ir.Node, int, Array] | None:
    """The only reader of a product, if it adds one constant per channel; which input that is, and its values."""
    uses = tuple(product.uses())
    if len(uses) != 1 or product.is_graph_output():
        return None
    reader, index = uses[0]
    if reader.op_type != "Add" or reader.domain:
        return None
    values = constant(input_of(reader, 1 - index))
    return (reader, 1 - index, values) if values is not None and values.ndim == 1 else None


def _node(
    op: str,
    inputs: Sequence[ir.Value],
    owner: str,
    output: str,
    *,
    like: ir.Value | None = None,
    attributes: Mapping[str, int] | None = None,
) -> ir.Node:
    """A node of what is named `owner`; its output has the type and shape of another value."""
    node = ir.node(op, inputs, attributes=attributes, name=f"{owner}/{op}")
    node.outputs[0].name = output
    if like is not None:
        node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
    return node


def _zero(graph: ir.Graph, name: str, form: Format, shape: tuple[int, ...]) -> ir.Value:
    """Zero points: they say which eight bits are meant, and TensorRT takes no other."""
    return add_constant(
        graph, name, form.rounded(np.zeros(shape, np.float32), np.ones((), np.float32)), form.dtype
    )


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
    name = node.name or ""
    cast = _node(
        "Cast",
        [input_of(node, 0)],
        name,
        f"{node.outputs[0].name}.wide",
        attributes={"to": int(ir.DataType.FLOAT)},
    )
    cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, cast)
    node.replace_input_with(0, cast.outputs[0])
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
    scale = input_of(node, 1)
    values = constant(scale)
    if values is None:
        raise TypeError(f"{node.name} has no constant scale")
    name = f"{scale.name}.wide"
    if name not in graph.initializers:
        add_constant(graph, name, values.astype(np.float32))
    node.replace_input_with(1, graph.initializers[name])


def _give_half(graph: ir.Graph, node: ir.Node) -> None:
    """Cast the output of a layer back for all that read it."""
    product = node.outputs[0]
    half = f"{product.name}.half"
    cast = _node(
        "Cast", [product], node.name or "", half, like=product, attributes={"to": int(ir.DataType.FLOAT16)}
    )
    product.type = ir.TensorType(ir.DataType.FLOAT)
    insert_behind(graph, product, cast, renamed=f"{product.name}.wide")


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
