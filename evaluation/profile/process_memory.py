"""The memory of this process: what it holds now, and its greatest since it was last asked to forget."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from pathlib import Path

PROCESS = Path("/proc/self")

FORGET_PEAK = "5"
"""Written to clear_refs: the greatest resident memory starts anew (Linux 4.0)."""


def forget_peak(process: Path = PROCESS) -> bool:
    """Start the greatest resident memory anew; whether the system can do that."""
    try:
        (process / "clear_refs").write_text(FORGET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak_mib(process: Path = PROCESS) -> float:
    """The greatest resident memory since `forget_peak`, or of the whole process where that cannot be."""
    found = _status_mib("VmHWM", process)
    if found is not None:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def resident_mib(process: Path = PROCESS) -> float | None:
    """What the process holds now; None where the system does not say."""
    return _status_mib("VmRSS", process)


def _status_mib(field: str, process: Path) -> float | None:
    try:
        text = (process / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else None


def process_age_s(process: Path = PROCESS) -> float | None:
    """Seconds since this process started; None where the system does not say."""
    try:
        fields = (process / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    except (OSError, ValueError, IndexError, AttributeError):
        return None
