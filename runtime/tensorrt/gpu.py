"""Which GPU a machine has, if any."""

from __future__ import annotations

from typing import Any

from ...errors import GmosError
from ..cuda.driver import NO_DEVICE, SUCCESS, device_advice, has_driver, load_cuda
from .record import DeviceIdentity


def find_device(index: int = 0, library: Any | None = None) -> DeviceIdentity | None:  # noqa: ANN401
    """The GPU of that number; None without a driver or such a device. Takes no device memory.

    Args:
        index: among the CUDA devices.
        library: CUDA's runtime API; None loads the bindings.

    Raises:
        GmosError: there is a driver, but not NVIDIA's Python bindings, or CUDA does not work.
    """
    if library is None and not has_driver():
        return None
    cuda = load_cuda() if library is None else library
    status, count = cuda.cudaGetDeviceCount()
    if int(status) == NO_DEVICE:
        return None
    _require(cuda, status, index)
    if index >= count:
        return None
    status, properties = cuda.cudaGetDeviceProperties(index)
    _require(cuda, status, index)
    return DeviceIdentity(
        name=bytes(properties.name).split(b"\0")[0].decode(),
        compute_capability=(int(properties.major), int(properties.minor)),
    )


def _require(cuda: Any, status: Any, index: int) -> None:  # noqa: ANN401 - the bindings have no types
    if int(status) != SUCCESS:
        text = cuda.cudaGetErrorString(status)[1]
        raise GmosError(
            f"no usable CUDA device {index} (CUDA error {int(status)}, {bytes(text or b'unknown').decode()}): "
            f"{device_advice(int(status))}"
        )
