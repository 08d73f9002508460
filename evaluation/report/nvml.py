"""What NVIDIA's management library tells of the GPUs; what it does not tell, as on a Jetson, is None."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

THROTTLING = {
    0x4: "software power limit",
    0x8: "hardware slowdown",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "hardware power brake",
}
"""Bits of NVML's clock event reasons that mean slower than asked for; idling and set clocks do not."""


class Gpu:
    """One GPU. Memory in bytes, clocks in MHz, degrees Celsius, watts; every value may be None."""

    def __init__(self, nvml: Any, index: int) -> None:  # noqa: ANN401 - a module without types
        self._nvml = nvml
        self.index = index
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def name(self) -> str | None:
        """As the maker calls it."""
        found = self._ask(self._nvml.nvmlDeviceGetName)
        return None if found is None else str(found)

    def memory(self) -> tuple[int, int] | tuple[None, None]:
        """Used by all programs, and in total."""
        found = self._ask(self._nvml.nvmlDeviceGetMemoryInfo)
        return (None, None) if found is None else (int(found.used), int(found.total))

    def compute_capability(self) -> str | None:
        """Such as 9.0."""
        found = self._ask(self._nvml.nvmlDeviceGetCudaComputeCapability)
        return None if found is None else f"{found[0]}.{found[1]}"

    def clock_mhz(self) -> float | None:
        """Of the multiprocessors now."""
        return self._number(self._nvml.nvmlDeviceGetClockInfo, self._nvml.NVML_CLOCK_SM)

    def clock_limit_mhz(self) -> float | None:
        """The greatest that it takes."""
        return self._number(self._nvml.nvmlDeviceGetMaxClockInfo, self._nvml.NVML_CLOCK_SM)

    def temperature_c(self) -> float | None:
        """Of the chip."""
        return self._number(self._nvml.nvmlDeviceGetTemperature, self._nvml.NVML_TEMPERATURE_GPU)

    def power_w(self) -> float | None:
        """Drawn by the board."""
        milliwatts = self._number(self._nvml.nvmlDeviceGetPowerUsage)
        return None if milliwatts is None else milliwatts / 1000

    def clock_reasons(self) -> int | None:
        """Why the clock is not higher, as bits; `THROTTLING` names those that matter."""
        found = self._ask(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        return None if found is None else int(found)

    def _number(self, question: Callable[..., Any], *about: Any) -> float | None:
        found = self._ask(question, *about)
        return None if found is None else float(found)

    def _ask(self, question: Callable[..., Any], *about: Any) -> Any:  # noqa: ANN401 - NVML's own types
        try:
            return question(self._handle, *about)
        except self._nvml.NVMLError:
            return None


@contextmanager
def nvidia_gpus() -> Iterator[tuple[str | None, tuple[Gpu, ...]]]:
    """The driver's version and all GPUs while the block runs; none without the library, its package or a driver."""
    try:
        import pynvml  # noqa: PLC0415 - a device without it tells nothing, and needs no package for that
    except ImportError:
        yield None, ()
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None, ()
        return
    try:
        yield _driver(pynvml)
    finally:
        pynvml.nvmlShutdown()


def _driver(nvml: Any) -> tuple[str | None, tuple[Gpu, ...]]:  # noqa: ANN401 - as above
    try:
        count = nvml.nvmlDeviceGetCount()
        return str(nvml.nvmlSystemGetDriverVersion()), tuple(Gpu(nvml, index) for index in range(count))
    except nvml.NVMLError:
        return None, ()
