"""An execution context of an engine: shapes in, work in a stream out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..contract import NetworkName
from ..cuda.driver import Cuda, Handle, OutOfDeviceMemoryError
from .call_plans import Sizes, size_key
from .library import TensorRT
from .record import EngineTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """What a context needs and gives at the shapes it was set to."""

    activation_bytes: int
    output_shapes: Mapping[str, tuple[int, ...]]


class ShapedContext:
    """A context of the library that remembers its shapes: setting the same ones again costs nothing."""

    def __init__(
        self,
        network: NetworkName,
        context: Any,  # noqa: ANN401 - the library is untyped
        tensors: Sequence[EngineTensor],
        library: TensorRT,
        cuda: Cuda,
    ) -> None:
        self._network = network
        self._context = context
        self._library = library
        self._cuda = cuda
        self._device_inputs = [tensor for tensor in tensors if tensor.mode == "input" and not tensor.host]
        self._outputs = [tensor.name for tensor in tensors if tensor.mode == "output"]
        # The library reads these while it starts a call: they stay where they are.
        self._host_values: dict[str, NDArray[np.generic]] = {
            tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in tensors if tensor.host
        }
        self._profile: int | None = None
        self._key: object = None
        self._shaped: Shaped | None = None
        self._activation: tuple[int, int] | None = None

    def shape(self, profile: int, sizes: Sizes, stream: Handle) -> Shaped:
        """Set a profile and the sizes of all inputs.

        Raises:
            GmosError: the library does not take them.
        """
        key = (profile, size_key(sizes))
        if self._shaped is not None and key == self._key:
            return self._shaped
        self._shaped = None
        self._library.log.start()
        if profile != self._profile:
            done = self._context.set_optimization_profile_async(profile, int(stream))
            self._must(done, f"take profile {profile}", stream)
            self._profile = profile
        for tensor in self._device_inputs:
            given = self._context.set_input_shape(tensor.name, sizes[tensor.name])
            self._must(given, f"take {tensor.name} of shape {sizes[tensor.name]}", stream)
        for name, values in self._host_values.items():
            values[...] = sizes[name]
            self._must(self._context.set_tensor_address(name, values.ctypes.data), f"place {name}", stream)
        unknown = self._context.infer_shapes()
        self._must(not unknown, f"tell its shapes from its inputs ({', '.join(unknown)})", stream)
        self._shaped = Shaped(
            activation_bytes=int(self._context.update_device_memory_size_for_shapes()),
            output_shapes={name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs},
        )
        self._key = key
        # The library forgets its memory with the shapes.
        self._activation = None
        return self._shaped

    def run(self, addresses: Mapping[str, int], activation: tuple[int, int], stream: Handle) -> None:
        """Start a call at the shapes that were set.

        Args:
            addresses: of all device inputs and outputs.
            activation: address and bytes of working memory that nothing else uses in the stream's order.
            stream: that gets the work.

        Raises:
            GmosError: the library could not start it.
        """
        if activation != self._activation:
            self._context.set_device_memory(*activation)
            self._activation = activation
        for name, address in addresses.items():
            self._must(self._context.set_tensor_address(name, address), f"place {name}", stream)
        self._library.log.start()
        self._must(self._context.execute_async_v3(int(stream)), "run", stream)

    def close(self) -> None:
        """Drop the library's context."""
        self._context = None

    def _must(self, done: object, what: str, stream: Handle) -> None:
        if done:
            return
        if self._library.log.out_of_memory:
            raise OutOfDeviceMemoryError(0, str(self._cuda))
        self._cuda.check(stream)
        reason = self._library.log.reason()
        raise GmosError(
            f"{self._library.label} could not {what} in {self._network}: {reason}; build the engine again, or use "
            "--backend onnxruntime"
        )
