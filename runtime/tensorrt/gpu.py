"""Which GPU a machine has, if any."""

from __future__ import annotations

from typing import Any

from ..cuda.driver import has_driver, load_cuda
from .record import DeviceIdentity


def find_device(index: int = 0, library: Any | None = None) -> DeviceIdentity | None:  # noqa: ANN401
    """The GPU of that number; None without a driver or such a device. Takes no device memory.

    Args:
        index: among the CUDA devices.
        library: CUDA's runtime API; None loads the bindings.

    Raises:
        GmosError: there is a driver, but not NVIDIA's Python bindings.
    """
    if library is None and not has_driver():
        return None
    cuda = load_cuda() if library is None else library
    status, count = cuda.cudaGetDeviceCount()
    if int(status) or index >= count:
        return None
    status, properties = cuda.cudaGetDeviceProperties(index)
    if int(status):
        return None
    return DeviceIdentity(
        name=bytes(properties.name).split(b"\0")[0].decode(),
        compute_capability=(int(properties.major), int(properties.minor)),
    )
