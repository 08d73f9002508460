"""Where a report was made: machine, device, versions and command line."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from ... import __version__
from ..benchmarks.parallel import available_cores

PACKAGES = (
    "numpy",
    "scipy",
    "av",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "rf-sam-2",
    "onnx",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-python",
)
"""Distributions whose versions can change a result or a time."""

CPU_INFO = Path("/proc/cpuinfo")
CLOCK_FILES = Path("/sys/devices/system/cpu/cpu0/cpufreq")

SMI_FIELDS = "name,driver_version,memory.total,compute_cap,clocks.sm,clocks_throttle_reasons.active"
SMI_TIMEOUT_S = 10


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
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "cpu_governor": _read(CLOCK_FILES / "scaling_governor"),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "packages": _versions(),
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


def _versions() -> dict[str, str]:
    return {name: found for name in PACKAGES if (found := _version(name)) is not None}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, str]]:
    """What nvidia-smi says of the GPUs; empty without it, on a Jetson too."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed command
            [program, f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=SMI_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    names = SMI_FIELDS.split(",")
    return [
        dict(zip(names, (cell.strip() for cell in line.split(",")), strict=False))
        for line in answer.splitlines()
        if line.strip()
    ]
