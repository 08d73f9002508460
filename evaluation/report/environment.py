"""Where a report was made: machine, device, versions and command line."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ... import __version__
from .nvml import nvidia_gpus

PACKAGES = (
    *("numpy", "scipy", "av", "pillow", "onnxruntime", "onnxruntime-gpu"),
    *("torch", "rf-sam-2", "onnx", "tensorrt", "tensorrt-rtx-cu13", "cuda-python"),
)
"""Distributions whose versions can change a result or a time."""

CPU_INFO = Path("/proc/cpuinfo")
CLOCK_FILES = Path("/sys/devices/system/cpu/cpu0/cpufreq")

NOT_TOLD = "not told"
"""Where a driver does not say, as that of a Jetson."""


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
        "gmos_deploy": __version__,
        "command": shlex.join(words),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "memory_mib": int(psutil.virtual_memory().total) >> 20,
        "cpu_governor": _read(CLOCK_FILES / "scaling_governor"),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def available_cores() -> int:
    """Cores that this process may use."""
    process = psutil.Process()
    # macOS has no affinity.
    return len(process.cpu_affinity() or ()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1


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
