"""The arrays of the ONNX Runtime backend on a CUDA device, without PyTorch.

ONNX Runtime allocates the memory and this module addresses it. Slices share the memory of the array they
are cut from; copies go through the CUDA driver, which every machine with a GPU has.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..cuda.device_array import DeviceArray, DeviceArrays, byte_count
from ..precision import ELEMENT_TYPES
from .sessions import LoadedGraph

DRIVER = "libcuda.so.1"

ORT_TYPES = {element.onnxruntime: name for name, element in ELEMENT_TYPES.items()}


class CudaDriver:
    """The four functions of the CUDA driver that are needed, on the context that ONNX Runtime uses."""

    def __init__(self, device: int, library: Any | None = None) -> None:  # noqa: ANN401 - a ctypes library
        try:
            self._cuda = ctypes.CDLL(DRIVER) if library is None else library
        except OSError as error:
            raise GmosError(
                f"--device cuda needs the NVIDIA driver ({DRIVER}: {error}); install it, or use --device cpu"
            ) from error
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        self._check("cuInit", 0)
        self._check("cuDeviceGet", ctypes.byref(handle), device)
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self._context = context

    def to_device(self, target: int, source: NDArray[np.generic]) -> None:
        """Copy a contiguous host array to an address on the device."""
        self._enter()
        self._check("cuMemcpyHtoD_v2", _address(target), _address(source.ctypes.data), _size(source.nbytes))

    def to_host(self, target: NDArray[np.generic], source: int) -> None:
        """Fill a contiguous host array from an address on the device."""
        self._enter()
        self._check("cuMemcpyDtoH_v2", _address(target.ctypes.data), _address(source), _size(target.nbytes))

    def on_device(self, target: int, source: int, nbytes: int) -> None:
        """Copy between two addresses on the device."""
        self._enter()
        self._check("cuMemcpyDtoD_v2", _address(target), _address(source), _size(nbytes))

    def free_bytes(self) -> int:
        """Device memory that is free now."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._enter()
        self._check("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def synchronize(self) -> None:
        """Wait for the device."""
        self._enter()
        self._check("cuCtxSynchronize")

    def _enter(self) -> None:
        # The context is current per thread, and the pipeline has several.
        self._check("cuCtxSetCurrent", self._context)

    def _check(self, function: str, *arguments: object) -> None:
        status = getattr(self._cuda, function)(*arguments)
        if status:
            raise GmosError(
                f"CUDA driver: {function} failed with error {status}; check that nvidia-smi lists the device, "
                "or use --device cpu"
            )


def _address(value: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(value)


def _size(value: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(value)


class OrtCudaArrays(DeviceArrays):
    """Memory of one CUDA device. Sessions read and write it through IO binding; nothing crosses to the host."""

    def __init__(self, device: int, onnxruntime: Any, driver: CudaDriver) -> None:  # noqa: ANN401 - untyped
        self._device = device
        self._ort = onnxruntime
        self._driver = driver

    def run(self, graph: LoadedGraph, inputs: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Run a graph on arrays of the device, or NumPy's."""
        session = graph.session
        binding = session.io_binding()
        kept = []
        for name, given in inputs.items():
            if isinstance(given, DeviceArray):
                binding.bind_input(
                    name, "cuda", self._device, _element_type(given.dtype), given.shape, given.pointer
                )
            else:
                # Shape-like inputs are read on the host; the rest is copied by ONNX Runtime.
                kept.append(np.ascontiguousarray(given))
                binding.bind_cpu_input(name, kept[-1])
        names = [output.name for output in session.get_outputs()]
        types = [ORT_TYPES[output.type] for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, "cuda", self._device)
        session.run_with_iobinding(binding, graph.run_options)
        values = zip(names, types, binding.get_outputs(), strict=True)
        return {
            name: DeviceArray(owner=value, pointer=value.data_ptr(), shape=tuple(value.shape()), dtype=dtype)
            for name, dtype, value in values
        }

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Memory of ONNX Runtime's arena."""
        nbytes = byte_count(shape, dtype)
        owner = self._ort.OrtValue.ortvalue_from_shape_and_type(
            [max(nbytes, 1)], np.uint8, "cuda", self._device
        )
        return DeviceArray(owner=owner, pointer=owner.data_ptr(), shape=tuple(shape), dtype=dtype)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Done when it returns."""
        self._driver.on_device(target.pointer, source.pointer, source.nbytes)

    def written(self, raw: NDArray[np.uint8], shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Done when it returns."""
        array = self.empty(shape, dtype)
        self._driver.to_device(array.pointer, raw)
        return array

    def read(self, array: DeviceArray) -> NDArray[np.uint8]:
        """A session waits for its outputs: arrays are always complete."""
        raw = np.empty(array.nbytes, np.uint8)
        self._driver.to_host(raw, array.pointer)
        return raw

    def free_bytes(self) -> int:
        """Of the device, beside ONNX Runtime's arena."""
        return self._driver.free_bytes()

    def synchronize(self) -> None:
        """Wait for the device."""
        self._driver.synchronize()


def _element_type(dtype: str) -> Any:  # noqa: ANN401 - ONNX Runtime takes NumPy types and ONNX numbers
    # NumPy has no bfloat16.
    element = ELEMENT_TYPES[dtype]
    return np.dtype(dtype).type if element.numpy == dtype else element.onnx_number
