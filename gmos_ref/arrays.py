"""The arrays of the reference: PyTorch's tensors on one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..runtime.arrays import HostArray, SimpleArrays
from ..runtime.host_memory import free_host_bytes


class TorchArrays(SimpleArrays):
    """Tensors of one device. Copies to it are started and not waited for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def upload(self, host: NDArray[np.generic]) -> Tensor:
        """On a CPU the array's own memory."""
        return torch.from_numpy(host).to(self._device, non_blocking=True)

    def download(self, array: Tensor) -> NDArray[Any]:
        """Waits for the device."""
        whole = array.float() if array.is_floating_point() else array
        return whole.cpu().numpy()

    def stack(self, arrays: Sequence[Tensor]) -> Tensor:
        """A copy with a new first axis."""
        return torch.stack(list(arrays))

    def unstack(self, array: Tensor) -> Sequence[Tensor]:
        """Views."""
        return array.unbind()

    def nbytes(self, array: Tensor) -> int:
        """Bytes of the elements."""
        return array.nbytes

    def to_host(self, array: Tensor) -> HostArray:
        """Pinned memory, if the device is a GPU."""
        host = torch.empty(
            array.shape, dtype=array.dtype, device="cpu", pin_memory=self._device.type == "cuda"
        )
        host.copy_(array)
        return HostArray(
            data=host.flatten().view(torch.uint8).numpy(),
            shape=tuple(array.shape),
            dtype=str(array.dtype).removeprefix("torch."),
        )

    def from_host(self, parked: HostArray) -> Tensor:
        """On a CPU the parked memory itself, if it can be written."""
        dtype = getattr(torch, parked.dtype)
        if not parked.data.size:  # torch cannot view no bytes as another dtype
            return torch.empty(parked.shape, dtype=dtype, device=self._device)
        # torch cannot share memory that is mapped read-only: that is a file, and read here.
        data = parked.data if parked.data.flags.writeable else np.array(parked.data)
        flat = torch.from_numpy(data).view(dtype)
        return flat.view(parked.shape).to(self._device, non_blocking=True)

    def free_bytes(self) -> int:
        """Of the GPU, beside what PyTorch keeps for later."""
        if self._device.type == "cuda":
            return torch.cuda.mem_get_info(self._device)[0]
        return free_host_bytes()

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
