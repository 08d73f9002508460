"""The forms that the opaque attention takes for each target."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.tape import Tape

from ...runtime.bundle.manifest import Target
from .attend import ATTEND, DOMAIN

FUSED_OPSET = 23
"""The first ONNX opset with an Attention operator."""

ORT_DOMAIN = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

FLOAT, FLOAT16, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16

Lowering = Callable[[Tape, ir.Value, ir.Value, ir.Value], ir.Value]


def lower_attention(model: ir.Model, target: Target) -> None:
    """Replace every opaque attention in place.

    `standard`, for TensorRT: below opset 23 two products and a softmax with the scale written out on q;
    in fp16 both products are computed in float32 by casts, the one form that TensorRT fuses and still
    accumulates in float32. From opset 23 the Attention operator in half precision (TensorRT builds none
    in fp32), with float32 inputs in fp16 for the same reason. bf16 kernels accumulate in float32 anyway.

    `onnxruntime`: its MultiHeadAttention, which never materialises the scores. At the published size
    they are 2.7 GB in each of 18 layers.
    """
    opset = model.opset_imports[""]
    found = False
    for node in list(model.graph):
        if (node.domain, node.op_type) != (DOMAIN, ATTEND):
            continue
        found = True
        q, k, v = (value for value in node.inputs if value is not None)
        tape = Tape()
        if target == "onnxruntime":
            result = _multi_head(tape, q, k, v)
        elif opset >= FUSED_OPSET and q.dtype != FLOAT:
            result = _attention(tape, q, k, v)
        else:
            result = _decomposed(tape, q, k, v)
        replace_node(model.graph, node, tape, result)
    model.opset_imports.pop(DOMAIN, None)
    if found and target == "onnxruntime":
        model.opset_imports[ORT_DOMAIN] = 1


def replace_node(graph: ir.Graph, node: ir.Node, tape: Tape, result: ir.Value) -> None:
    """Put the nodes of a tape in the place of one, named after it."""
    old = node.outputs[0]
    for number, new in enumerate(tape.nodes):
        new.name = f"{node.name}/{new.op_type}_{number}"
    result.shape, result.type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], list(tape.nodes), [old], [result])


def _scale(q: ir.Value) -> float:
    return 1 / math.sqrt(_length(q, -1))


def _length(value: ir.Value, axis: int) -> int:
    length = None if value.shape is None else value.shape[axis]
    if not isinstance(length, int):
        raise TypeError(f"axis {axis} of {value.name} has no fixed length: {value.shape}")
    return length


def _cast(tape: Tape, x: ir.Value, dtype: ir.DataType) -> ir.Value:
    return tape.op("Cast", [x], {"to": int(dtype)})


def constant(tape: Tape, value: float | list[int], dtype: ir.DataType) -> ir.Value:
    """A number or a list of them on the tape."""
    return tape.op("Constant", [], {"value": ir.tensor(value, dtype=dtype)})


def _decomposed(tape: Tape, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
    """Scaled before the cast to float32: TensorRT-RTX 1.7 fuses nothing when the scale follows it."""
    half = q.dtype == FLOAT16
    q = tape.op("Mul", [q, constant(tape, _scale(q), q.dtype or FLOAT)])
    k = tape.op("Transpose", [k], {"perm": [0, 1, 3, 2]})
    if not half:
        return tape.op("MatMul", [tape.op("Softmax", [tape.op("MatMul", [q, k])], {"axis": -1}), v])
    scores = tape.op("MatMul", [_cast(tape, q, FLOAT), _cast(tape, k, FLOAT)])
    shares = tape.op("Softmax", [_cast(tape, scores, FLOAT16)], {"axis": -1})
    return _cast(tape, tape.op("MatMul", [_cast(tape, shares, FLOAT), _cast(tape, v, FLOAT)]), FLOAT16)


def _attention(tape: Tape, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
    scale = _scale(q)
    if q.dtype != FLOAT16:
        return tape.op("Attention", [q, k, v], {"scale": scale})
    inputs = [_cast(tape, x, FLOAT) for x in (q, k, v)]
    return _cast(tape, tape.op("Attention", inputs, {"scale": scale}), FLOAT16)


def _multi_head(tape: Tape, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
    """ONNX Runtime takes and gives (B, L, heads * D)."""
    heads, scale = _length(q, 1), _scale(q)

    def joined(x: ir.Value) -> ir.Value:
        shape = constant(tape, [0, 0, heads * _length(x, 3)], ir.DataType.INT64)
        return tape.op("Reshape", [tape.op("Transpose", [x], {"perm": [0, 2, 1, 3]}), shape])

    attributes = {"num_heads": heads, "scale": scale}
    result = tape.op("MultiHeadAttention", [joined(q), joined(k), joined(v)], attributes, domain=ORT_DOMAIN)
    shape = constant(tape, [0, 0, heads, _length(v, 3)], ir.DataType.INT64)
    return tape.op("Transpose", [tape.op("Reshape", [result, shape])], {"perm": [0, 2, 1, 3]})
