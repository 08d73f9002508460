"""Where a report was made: machine, GPUs as NVIDIA's library tells of them, versions and command line."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ...runtime.host_memory import usable_cores
from .software import software

PACKAGES = (
    *("numpy", "scipy", "av", "pillow", "onnxruntime", "onnxruntime-gpu"),
    *("torch", "rf-sam-2", "onnx", "tensorrt", "tensorrt-rtx-cu13", "cuda-python"),
)
"""Distributions whose versions can change a result or a time."""

CPU_INFO = Path("/proc/cpuinfo")
CLOCK_FILES = Path("/sys/devices/system/cpu/cpu0/cpufreq")

NOT_TOLD = "not told"
"""Where a driver does not say, as that of a Jetson."""

THROTTLING = {
    0x4: "software power limit",
    0x8: "hardware slowdown",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "hardware power brake",
}
"""Bits of NVML's clock event reasons that mean slower than asked for; idling and set clocks do not."""


def environment(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything about this machine and process that a reader of a report needs, as JSON values.

    Args:
        arguments: the command line; None takes this process's.
    """
    words = list(sys.argv if arguments is None else arguments)
    if words:
        words[0] = Path(words[0]).name
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "gmos_deploy": software(),
        "command": shlex.join(words),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_mib": int(psutil.virtual_memory().total) >> 20,
        "cpu_governor": _read(CLOCK_FILES / "scaling_governor"),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _cpu_name() -> str | None:
    text = _read(CPU_INFO) or ""
    # "model name" on x86, "Model" on most ARM boards.
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return platform.processor() or None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, str]]:
    """What the driver tells of the GPUs; empty without one, on a Jetson too."""
    with nvidia_gpus() as (driver, ask):
        told = [
            {
                "name": gpu.name,
                "driver_version": driver,
                "memory.total": f"{gpu.memory_total >> 20} MiB" if gpu.memory_total else None,
                "compute_cap": gpu.compute_capability,
                "clocks.sm": None if gpu.clock_mhz is None else f"{gpu.clock_mhz:g} MHz",
                "clocks_throttle_reasons.active": None if gpu.reasons is None else f"{gpu.reasons:#018x}",
            }
            for gpu in ask()
        ]
    return [{name: NOT_TOLD if value is None else value for name, value in gpu.items()} for gpu in told]


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
