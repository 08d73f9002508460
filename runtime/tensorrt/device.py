"""The device that engines run on: its arrays, and the working memory that engines share."""

from __future__ import annotations

from ...errors import GmosError
from ..cuda.arrays import CudaArrays
from ..cuda.driver import Cuda
from ..cuda.pool import Block, DevicePool
from .record import DeviceIdentity

ACTIVATION_STEP_BYTES = 2 << 20
"""Activation memory grows in these steps, so that lengths that differ a little do not each move it."""


PROCESS_BYTES = 512 << 20
"""Of a process on a device beside weights, activations and arrays: CUDA's context, kernels, workspaces."""

MOST_OF_PROCESS = 0.5
"""Of a share that this may be: small devices have small contexts."""


def budget_of_share(cuda: Cuda, share: float) -> int:
    """The bytes that a process may use of a device that it has a share of, so that all of them together fit.

    Args:
        cuda: the device.
        share: above 0, up to 1.

    Raises:
        GmosError: so much is not free now: others have more than their share.
    """
    free, total = cuda.memory_info()
    part = int(share * total)
    budget = part - min(PROCESS_BYTES, int(MOST_OF_PROCESS * part))
    if free < budget:
        raise GmosError(
            f"a share of {share:g} of {cuda} is {budget >> 20} MiB for networks and arrays, and {free >> 20} MiB are "
            "free; close other programs that use the device, start fewer workers, or give --memory_budget"
        )
    return budget


class EngineDevice(CudaArrays):
    """The arrays of one CUDA device, in the stream that all engines run in, and their working memory.

    `budget` in bytes bounds weights, activations and arrays together; None is no bound.
    """

    def __init__(self, cuda: Cuda, *, budget: int | None = None) -> None:
        super().__init__(cuda, budget=budget)
        self.activations = ActivationMemory(self.pool)

    @property
    def identity(self) -> DeviceIdentity:
        """The GPU, as engine records name it."""
        return DeviceIdentity(name=self.cuda.name, compute_capability=self.cuda.compute_capability)

    def close(self) -> None:
        """Give all memory back, the working memory too."""
        self.activations.drop()
        super().close()


class ActivationMemory:
    """The working memory that the contexts of all networks take turns with; grows to the largest need.

    `version` changes with its place: whatever has the old place built in is void then.
    """

    def __init__(self, pool: DevicePool) -> None:
        self._pool = pool
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
            self._pool.trim()
            steps = -(-max(nbytes, 1) // ACTIVATION_STEP_BYTES)
            self._block = self._pool.allocate(steps * ACTIVATION_STEP_BYTES, exact=True)
        return self._block.pointer, self._block.nbytes

    def drop(self) -> None:
        """Give it back; what runs now still has it."""
        self._block = None
        self.version += 1
