"""Runs an exported graph on ONNX Runtime's CPU provider, for the gate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from ...runtime.onnx.sessions import configure_quantised
from ...runtime.precision import ELEMENT_TYPES

Array = NDArray[Any]

WARNINGS_OFF = 3
"""ONNX Runtime's level for errors only."""


class GraphSession:
    """One graph on the CPU. Inputs come as float32 or whole numbers, outputs go as float32.

    `fp8` says whether it has layers that are quantised to that.
    """

    def __init__(self, path: Path, dtypes: Mapping[str, str], *, fp8: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = WARNINGS_OFF
        # One run each: packing the weights would cost their size again.
        options.add_session_config_entry("session.disable_prepacking", "1")
        configure_quantised(options, fp8=fp8)
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._dtypes = dtypes
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        feeds = {
            name: np.ascontiguousarray(array, dtype=ELEMENT_TYPES[self._dtypes[name]].numpy)
            for name, array in inputs.items()
        }
        outputs = self._session.run(self._outputs, feeds)
        return {
            name: array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array
            for name, array in zip(self._outputs, outputs, strict=True)
        }


def write_float32_twin(graph: Path, folder: Path) -> Path:
    """A copy of a bfloat16 graph that computes in float32 on the same, rounded weights.

    ONNX Runtime has no bfloat16 convolution on the CPU, so this is what the gate runs there.

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
