"""The device that engines run on: its streams, its memory and the arrays in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..cuda.device_array import DeviceArray, DeviceArrays, byte_count
from ..cuda.driver import Cuda
from ..cuda.pool import Block, DevicePool
from ..cuda.transfers import Transfers
from .record import DeviceIdentity

ACTIVATION_STEP_BYTES = 2 << 20
"""Activation memory grows in these steps, so that lengths that differ a little do not each move it."""


class EngineDevice(DeviceArrays):
    """One CUDA device with one stream for all networks: what they hand on needs no waiting.

    `budget` in bytes bounds weights, activations and arrays together; None is no bound.
    """

    def __init__(self, cuda: Cuda, *, budget: int | None = None) -> None:
        self.cuda = cuda
        self.stream = cuda.new_stream()
        self.pool = DevicePool(cuda, self.stream, budget=budget)
        self.transfers = Transfers(cuda, self.pool, self.stream)
        self.activations = ActivationMemory(self)

    @property
    def identity(self) -> DeviceIdentity:
        """The GPU, as engine records name it."""
        return DeviceIdentity(name=self.cuda.name, compute_capability=self.cuda.compute_capability)

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """A new array; what is in it is undefined."""
        block = self.pool.allocate(byte_count(shape, dtype))
        return DeviceArray(owner=block, pointer=block.pointer, shape=shape, dtype=dtype)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy an array's content in the stream."""
        self.cuda.copy_on_device(target.pointer, source.pointer, source.nbytes, self.stream)

    def note_ready(self, arrays: Sequence[DeviceArray]) -> None:
        """Note that the arrays are complete after what the stream has been given so far."""
        event = self.cuda.mark(self.stream)
        for array in arrays:
            if isinstance(array.owner, Block):
                array.owner.ready = event

    def written(self, raw: NDArray[np.uint8], shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """A new array of contiguous bytes. Starts the copy and returns."""
        block = self.pool.allocate(raw.nbytes, "upload")
        self.transfers.upload(raw, block)
        return DeviceArray(owner=block, pointer=block.pointer, shape=tuple(shape), dtype=dtype)

    def read(self, array: DeviceArray) -> NDArray[np.uint8]:
        """The bytes of an array; waits for this one only."""
        return self.transfers.download(array)

    def free_bytes(self) -> int:
        """What could be allocated now, on the device and within the budget."""
        return self.pool.free_bytes()

    def synchronize(self) -> None:
        """Wait for all networks and copies."""
        self.cuda.synchronize(self.stream)
        self.transfers.synchronize()

    def close(self) -> None:
        """Give all memory back; a device that was lost has nothing to give."""
        with ignoring_lost_device(self.cuda):
            self.synchronize()
            self.activations.drop()
            self.transfers.close()
            self.pool.close()
            self.cuda.end_stream(self.stream)
            self.cuda.drop_events()


class ActivationMemory:
    """The working memory that the contexts of all networks take turns with; grows to the largest need.

    `version` changes with its place: whatever has the old place built in is void then.
    """

    def __init__(self, device: EngineDevice) -> None:
        self._device = device
        self._block: Block | None = None
        self.version = 0

    @property
    def nbytes(self) -> int:
        """Bytes taken so far."""
        return 0 if self._block is None else self._block.nbytes

    def require(self, nbytes: int) -> tuple[int, int]:
        """Address and length in bytes of at least so much.

        Raises:
            OutOfDeviceMemoryError: there is no room for it.
        """
        if self._block is None or self._block.nbytes < nbytes:
            self.drop()
            # The old one goes back to the device first: both at once need not fit.
            self._device.pool.trim()
            steps = -(-max(nbytes, 1) // ACTIVATION_STEP_BYTES)
            self._block = self._device.pool.allocate(steps * ACTIVATION_STEP_BYTES, exact=True)
        return self._block.pointer, self._block.nbytes

    def drop(self) -> None:
        """Give it back; what runs now still has it."""
        self._block = None
        self.version += 1


@contextlib.contextmanager
def ignoring_lost_device(cuda: Cuda) -> Iterator[None]:
    """Let an error pass while closing if the device was lost: the first one has been reported."""
    try:
        yield
    except GmosError:
        if not cuda.is_lost:
            raise
