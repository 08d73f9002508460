"""A graph in half precision as one that computes in float32, which ONNX Runtime's CPU provider does exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

HALF = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)


def write_float32_twin(graph: Path, folder: Path) -> Path:
    """A copy of a graph in half precision that computes in float32 on the same, rounded weights.

    ONNX Runtime has no bfloat16 convolution on the CPU, and its products in float16 differ from version to version:
    some are summed in half.

    Returns:
        The copy's path in `folder`; its weights lie beside it.
    """
    model = ir.load(graph)
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph:
        values += node.outputs
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in HALF:
                node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor()))
        if node.op_type == "Cast" and node.attributes.get_int("to") in HALF:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    for value in values:
        if value.dtype in HALF:
            value.dtype = ir.DataType.FLOAT
        if value.const_value is not None and value.const_value.dtype in HALF:
            value.const_value = _widened(value.const_value)
    twin = folder / graph.name
    ir.save(model, twin, external_data=f"{graph.name}.twin")
    return twin


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )
