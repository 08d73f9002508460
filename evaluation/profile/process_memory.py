"""The memory of this process: what it holds now, and its greatest since it was last asked to forget."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import psutil

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
    try:
        status = (process / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    if found is not None:
        return int(found[1]) / 1024
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    else:  # noqa: RET505 - the type checker reads what a platform has by its branches
        import resource  # noqa: PLC0415 - not there on Windows, where this module is imported too

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def resident_mib() -> float:
    """What the process holds now."""
    return float(psutil.Process().memory_info().rss) / 2**20


def process_age_s(process: Path = PROCESS) -> float | None:
    """Seconds since this process started; None where the system does not say."""
    if sys.platform != "linux":
        return max(0.0, time.time() - float(psutil.Process().create_time()))
    else:  # noqa: RET505 - as above
        try:
            # Not psutil's: its clock starts at a whole second.
            text = (process / "stat").read_text(encoding="ascii", errors="replace")
            started_s = int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
            return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
        except (OSError, ValueError, IndexError):
            return None
