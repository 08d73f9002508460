"""What NVIDIA's management library tells of the GPUs; what it does not tell, as on a Jetson, is None."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

THROTTLING = {
    0x4: "software power limit",
    0x8: "hardware slowdown",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "hardware power brake",
}
"""Bits of NVML's clock event reasons that mean slower than asked for; idling and set clocks do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """One GPU at a moment; every value may be None.

    Memory in bytes, used by all programs and in total; clocks of the multiprocessors in MHz, now and the greatest
    that they take; degrees Celsius; watts drawn by the board. `reasons` are why the clock is not higher, as bits:
    `THROTTLING` names those that matter.
    """

    index: int
    name: str | None
    memory_used: int | None
    memory_total: int | None
    compute_capability: str | None
    clock_mhz: float | None
    clock_limit_mhz: float | None
    temperature_c: float | None
    power_w: float | None
    reasons: int | None


AskGpus = Callable[[], list[GpuState]]
"""All GPUs now."""


@contextmanager
def nvidia_gpus() -> Iterator[tuple[str | None, AskGpus]]:
    """The driver's version and all GPUs while the block runs; none without the library, its package or a driver."""
    try:
        import pynvml  # noqa: PLC0415 - a device without it tells nothing, and needs no package for that
    except ImportError:
        yield None, list
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None, list
        return
    try:
        yield _driver(pynvml)
    finally:
        pynvml.nvmlShutdown()


def _driver(nvml: Any) -> tuple[str | None, AskGpus]:  # noqa: ANN401 - a module without types
    try:
        version = str(nvml.nvmlSystemGetDriverVersion())
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return None, list
    return version, lambda: [_state(nvml, index, handle) for index, handle in enumerate(handles)]


def _state(nvml: Any, index: int, handle: object) -> GpuState:  # noqa: ANN401 - as above
    def told(question: str, *about: object, convert: Callable[[Any], Any] = float) -> Any:  # noqa: ANN401 - NVML's
        try:
            return convert(getattr(nvml, f"nvmlDeviceGet{question}")(handle, *about))
        except nvml.NVMLError:
            return None

    memory = told("MemoryInfo", convert=lambda found: found)
    return GpuState(
        index=index,
        name=told("Name", convert=str),
        memory_used=None if memory is None else int(memory.used),
        memory_total=None if memory is None else int(memory.total),
        compute_capability=told("CudaComputeCapability", convert=lambda found: f"{found[0]}.{found[1]}"),
        clock_mhz=told("ClockInfo", nvml.NVML_CLOCK_SM),
        clock_limit_mhz=told("MaxClockInfo", nvml.NVML_CLOCK_SM),
        temperature_c=told("Temperature", nvml.NVML_TEMPERATURE_GPU),
        power_w=told("PowerUsage", convert=lambda milliwatts: float(milliwatts) / 1000),
        reasons=told("CurrentClocksThrottleReasons", convert=int),
    )
