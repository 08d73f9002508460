"""Which linear layers of a network's graph are quantised, and the activations that they read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

EXCLUDED_MODULES = re.compile(
    r"(motion|iou|conf|score)_head|pointer_projection|hypernetwork|upsampling|upscaling|position_projection"
    r"|output_projection|trunk\.blocks\.\d+\.proj"
)
"""Modules that are always excluded: mask heads, scores, last layers, and the one linear layer on a residual path."""

LEAST_WEIGHTS = 1024
"""A smaller weight stays in the graph's own file and is not worth its two more nodes."""

SLICE_OPSET = 20
"""Any from 13 on: Slice and Transpose have been the same since then."""

BLOCK_PARTS = re.compile(r"(?:\.layers)?\.(?:\d+|[^.\d]+\d*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLayer:
    """A product with a constant weight (K, N), and the bias added to it if there is one.

    `activation` names the tensor (..., K) that it reads, `module` where it is in the network.
    """

    node: str
    module: str
    activation: str
    shape: tuple[int, int]

    @property
    def group(self) -> str:
        """The group of layers that it belongs to, a part of a block: `blocks.3.attn`, `blocks.3.mlp`."""
        return BLOCK_PARTS.sub("", self.module) or self.module

    @property
    def weights(self) -> int:
        """How many there are."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A tensor that quantised linear layers read.

    `norm` is the node of the LayerNormalization that makes it, if nothing but these layers reads it: then
    SmoothQuant can move the sizes of its channels into the weights.
    """

    name: str
    layers: tuple[LinearLayer, ...]
    norm: str | None


def find_activations(graph: ir.Graph) -> tuple[Activation, ...]:
    """The activations whose layers can be quantised, in the order of the graph."""
    found: dict[str, list[LinearLayer]] = {}
    values: dict[str, ir.Value] = {}
    for node in graph:
        layer = _linear_layer(node)
        if layer is not None:
            found.setdefault(layer.activation, []).append(layer)
            values[layer.activation] = input_of(node, 0)
    return tuple(
        Activation(name=name, layers=tuple(layers), norm=_smoothed_norm(values[name], layers))
        for name, layers in found.items()
    )


def all_layers(activations: Sequence[Activation]) -> tuple[LinearLayer, ...]:
    """The layers of all activations."""
    return tuple(layer for activation in activations for layer in activation.layers)


def groups(activations: Sequence[Activation]) -> Mapping[str, tuple[LinearLayer, ...]]:
    """The layers by group."""
    found: dict[str, tuple[LinearLayer, ...]] = {}
    for layer in all_layers(activations):
        found[layer.group] = (*found.get(layer.group, ()), layer)
    return found


def weight_of(node: ir.Node) -> NDArray[Any]:
    """The weight (K, N) of a layer that `find_activations` has found."""
    value = constant(input_of(node, 1))
    if value is None:
        raise TypeError(f"{node.name} has no constant weight")
    return value


def constant(value: ir.Value) -> NDArray[Any] | None:
    """The values of an initializer, also after a slice or a transposition; None if they are not constant."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return np.asarray(tensor.numpy())
    node = value.producer()
    if node is None or node.op_type not in ("Slice", "Transpose") or node.domain:
        return None
    given: dict[str, Any] = {part.name or "": constant(part) for part in node.inputs if part is not None}
    if any(values is None for values in given.values()):
        return None
    [found] = ReferenceEvaluator(ir.to_proto(node), opsets={"": SLICE_OPSET}).run(None, given)
    return np.ascontiguousarray(found)


def _linear_layer(node: ir.Node) -> LinearLayer | None:
    if node.op_type != "MatMul" or node.domain:
        return None
    data, weight = input_of(node, 0), input_of(node, 1)
    stored = _stored(weight).const_value
    if stored is None or stored.dtype != ir.DataType.FLOAT16 or constant(data) is not None:
        return None
    # A weight as it is stored is not read for its shape.
    whole = weight.const_value is not None
    part = None if whole else constant(weight)
    shape = stored.shape.numpy() if whole else () if part is None else part.shape
    module = _module(node)
    if len(shape) != 2 or shape[0] * shape[1] < LEAST_WEIGHTS or EXCLUDED_MODULES.search(module):
        return None
    return LinearLayer(
        node=node.name or "", module=module, activation=data.name or "", shape=(int(shape[0]), int(shape[1]))
    )


def _module(node: ir.Node) -> str:
    """The module a node is named after; where a weight is a part of another one, that one's."""
    name = node.name or ""
    if "/" in name:
        return name.rpartition("/")[0]
    part = (_stored(input_of(node, 1)).name or "").removesuffix(".weight")
    return part if "." in part else name


def _stored(value: ir.Value) -> ir.Value:
    """The initializer that a constant is, or is a part of."""
    while value.const_value is None and (maker := value.producer()) is not None and maker.inputs:
        value = input_of(maker, 0)
    return value


def input_of(node: ir.Node, index: int) -> ir.Value:
    """An input that a node must have."""
    value = node.inputs[index]
    if value is None:
        raise TypeError(f"{node.name} lacks input {index}")
    return value


def _smoothed_norm(value: ir.Value, layers: Sequence[LinearLayer]) -> str | None:
    """The LayerNormalization that makes a value which these layers alone read."""
    maker = value.producer()
    if maker is None or maker.op_type != "LayerNormalization" or value.is_graph_output():
        return None
    if any(
        len(part.uses()) != 1 or part.const_value is None for part in maker.inputs[1:] if part is not None
    ):
        return None
    readers = {node.name for node, _ in value.uses()}
    return maker.name if readers == {layer.node for layer in layers} else None
