"""The device's own time of some work, where a backend can tell it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...runtime.backend import Backend

DeviceTimer = Callable[[Callable[[], None]], float]
"""Milliseconds of the device for what a function starts, between two events around it."""


def device_timer(backend: Backend) -> DeviceTimer | None:
    """CUDA events in the backend's stream; None on a CPU, and where its stream is not ours.

    ONNX Runtime waits for a stream of its own at the end of each call: there the clock of the host, after
    that, is the device's time with what starting the call took.
    """
    own: DeviceTimer | None = getattr(backend, "measure_ms", None)
    if own is not None:
        return own
    if getattr(backend.arrays.upload(np.zeros(1, np.uint8)), "is_cuda", False):
        return _torch_ms
    return None


def _torch_ms(work: Callable[[], None]) -> float:
    import torch  # noqa: PLC0415 - a backend whose arrays are its tensors has loaded it

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
