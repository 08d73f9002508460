"""How much host memory there is to use."""

from __future__ import annotations

from pathlib import Path

import psutil

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where a container sees the limits that it runs in."""

GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Limit, use and its parts: of control groups of version 2, and of version 1."""


def free_host_bytes(group: Path = CONTROL_GROUP) -> int:
    """Bytes of host memory that can be had without swapping, within the limit of a container."""
    free = int(psutil.virtual_memory().available)
    left = left_in_group(group)
    return free if left is None else min(free, left)


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
