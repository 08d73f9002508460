"""How much host memory and how many cores there are to use."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where a container sees the limits that it runs in."""

GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Limit, use and its parts: of control groups of version 2, and of version 1."""


CORE_FILES = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
"""Time on cores and the period that it is for, of both versions; in one file, or in two."""


def free_host_bytes(group: Path = CONTROL_GROUP) -> int:
    """Bytes of host memory that can be had without swapping, within the limit of a container."""
    free = int(psutil.virtual_memory().available)
    left = left_in_group(group)
    return free if left is None else min(free, left)


def usable_cores(group: Path = CONTROL_GROUP) -> int:
    """Cores that this process may use, within the share of time that a container has; at least 1."""
    process = psutil.Process()
    # macOS has no affinity.
    cores = len(process.cpu_affinity() or ()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1
    return max(1, min(cores, cores_of_group(group) or cores))


def cores_of_group(group: Path) -> int | None:
    """Whole cores' worth of time of a control group, rounded up; None without a limit."""
    for names in CORE_FILES:
        try:
            quota, period = (
                int(word) for name in names for word in (group / name).read_text(encoding="ascii").split()
            )
        except (OSError, ValueError):
            # No such file, or "max": no limit.
            continue
        if quota > 0 and period > 0:
            return math.ceil(quota / period)
    return None


def left_in_group(group: Path) -> int | None:
    """Bytes up to the limit of a control group, with what its file caches would give back; None without one."""
    for limit_name, used_name, parts_name in GROUP_FILES:
        try:
            limit = int((group / limit_name).read_text(encoding="ascii"))
            used = int((group / used_name).read_text(encoding="ascii"))
            parts = (group / parts_name).read_text(encoding="ascii")
        except (OSError, ValueError):
            # No such file, or "max": no limit.
            continue
        cached = dict(line.split() for line in parts.splitlines()).get("inactive_file", "0")
        return max(0, limit - used + int(cached))
    return None
