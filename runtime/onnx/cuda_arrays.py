"""The arrays of the ONNX Runtime backend on a CUDA device, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..cuda.arrays import CudaArrays
from ..cuda.device_array import DeviceArray
from ..precision import ELEMENT_TYPES
from .sessions import LoadedGraph

ORT_TYPES = {element.onnxruntime: name for name, element in ELEMENT_TYPES.items()}


class OrtCudaArrays(CudaArrays):
    """Arrays that sessions read and write through IO binding; nothing crosses to the host.

    A session has a stream of its own and waits for it at the end of each call. So it starts when the arrays are
    complete, and what it gives is complete; the memory of its outputs is ONNX Runtime's.
    """

    def run(self, graph: LoadedGraph, inputs: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Run a graph on arrays of the device, or NumPy's."""
        session, device = graph.session, self.cuda.index
        binding = session.io_binding()
        kept = []
        for name, given in inputs.items():
            if isinstance(given, DeviceArray):
                binding.bind_input(
                    name, "cuda", device, _element_type(given.dtype), given.shape, given.pointer
                )
            else:
                # Shape-like inputs are read on the host; the rest is copied by ONNX Runtime.
                kept.append(np.ascontiguousarray(given))
                binding.bind_cpu_input(name, kept[-1])
        names = [output.name for output in session.get_outputs()]
        types = [ORT_TYPES[output.type] for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, "cuda", device)
        self.cuda.synchronize(self.stream)
        session.run_with_iobinding(binding, graph.run_options)
        values = zip(names, types, binding.get_outputs(), strict=True)
        return {
            name: DeviceArray(owner=value, pointer=value.data_ptr(), shape=tuple(value.shape()), dtype=dtype)
            for name, dtype, value in values
        }


def _element_type(dtype: str) -> Any:  # noqa: ANN401 - ONNX Runtime takes NumPy types and ONNX numbers
    # NumPy has no bfloat16.
    element = ELEMENT_TYPES[dtype]
    return np.dtype(dtype).type if element.numpy == dtype else element.onnx_number
