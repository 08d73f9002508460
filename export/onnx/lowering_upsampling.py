"""Transposed convolutions that only enlarge, as a product per pixel and a rearrangement."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from ...runtime.bundle.manifest import Target
from .lowering import BFLOAT16, constant, replace_node


def lower_upsampling(model: ir.Model, target: Target) -> None:
    """Rewrite bfloat16 transposed convolutions for TensorRT, in place.

    TensorRT-RTX 1.7 cannot build them ("Could not infer output types for operation: deconv"). Where
    kernel and stride are equal no two outputs overlap, so the same numbers come from a 1x1 convolution
    with a channel for every place of the kernel, whose channels are then laid out as pixels.
    """
    if target != "standard":
        return
    for node in list(model.graph):
        if (node.domain, node.op_type) != ("", "ConvTranspose"):
            continue
        x, weight = node.inputs[0], node.inputs[1]
        if x is None or weight is None or weight.dtype != BFLOAT16 or not _only_enlarges(node, weight):
            continue
        tape = Tape()
        result = _as_convolution(tape, x, weight, node.inputs[2] if len(node.inputs) > 2 else None)
        replace_node(model.graph, node, tape, result)


def _only_enlarges(node: ir.Node, weight: ir.Value) -> bool:
    """Whether kernel and stride are equal and square, with nothing padded, dilated or grouped."""
    kernel = _numbers(weight)[2:]
    attributes = node.attributes
    strides = attributes.get_ints("strides", [1, 1])
    return (
        len(kernel) == 2
        and kernel[0] == kernel[1]
        and list(strides) == list(kernel)
        and not any(attributes.get_ints("pads", [0]))
        and not any(attributes.get_ints("output_padding", [0]))
        and set(attributes.get_ints("dilations", [1])) == {1}
        and attributes.get_int("group", 1) == 1
        and attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    )


def _numbers(value: ir.Value) -> list[int]:
    if value.shape is None:
        raise TypeError(f"{value.name} has no shape")
    return [int(length) for length in value.shape.numpy()]


def _as_convolution(tape: Tape, x: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    """Weights (C, O, r, r) to (O r r, C, 1, 1); the builder computes that once."""
    inputs, outputs, side, _ = _numbers(weight)

    def lengths(*values: int) -> ir.Value:
        return constant(tape, list(values), ir.DataType.INT64)

    turned = tape.op("Transpose", [weight], {"perm": [1, 2, 3, 0]})
    places = tape.op("Reshape", [turned, lengths(outputs * side * side, inputs, 1, 1)])
    product = tape.op("Conv", [x, places], {"kernel_shape": [1, 1]})
    pixels = tape.op("DepthToSpace", [product], {"blocksize": side, "mode": "CRD"})
    if bias is None:
        return pixels
    return tape.op("Add", [pixels, tape.op("Reshape", [bias, lengths(1, outputs, 1, 1)])])
