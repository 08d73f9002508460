"""A bfloat16 graph as one that ONNX Runtime's CPU provider runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir


def write_float32_twin(graph: Path, folder: Path) -> Path:
    """A copy of a bfloat16 graph that computes in float32 on the same, rounded weights.

    ONNX Runtime has no bfloat16 convolution on the CPU, so this is what is run there.

    Returns:
        The copy's path in `folder`; its weights lie beside it.
    """
    model = ir.load(graph)
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph:
        values += node.outputs
        for name, attribute in list(node.attributes.items()):
            if (
                attribute.type == ir.AttributeType.TENSOR
                and attribute.as_tensor().dtype == ir.DataType.BFLOAT16
            ):
                node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor()))
        if node.op_type == "Cast" and node.attributes.get_int("to") == ir.DataType.BFLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    for value in values:
        if value.dtype == ir.DataType.BFLOAT16:
            value.dtype = ir.DataType.FLOAT
        if value.const_value is not None and value.const_value.dtype == ir.DataType.BFLOAT16:
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
