"""Free host memory, within the limits of a container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from gmos_deploy.runtime.host_memory import cores_of_group, free_host_bytes, left_in_group, usable_cores

MIB = 1 << 20


def test_a_machine_without_limits(tmp_path: Path) -> None:
    """All that is available."""
    assert left_in_group(tmp_path) is None
    assert free_host_bytes(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize(
    ("limit", "used"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_a_container_has_less(tmp_path: Path, limit: str, used: str) -> None:
    """Its limit, less what it uses, with the files that it caches; control groups of both versions."""
    place = (tmp_path / limit).parent
    place.mkdir(exist_ok=True)
    (tmp_path / limit).write_text(f"{100 * MIB}\n")
    (tmp_path / used).write_text(f"{90 * MIB}\n")
    (place / "memory.stat").write_text(f"anon {70 * MIB}\ninactive_file {15 * MIB}\n")
    assert free_host_bytes(tmp_path) == 25 * MIB


def test_a_group_without_a_limit(tmp_path: Path) -> None:
    """Says max."""
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("12\n")
    (tmp_path / "memory.stat").write_text("anon 3\n")
    assert left_in_group(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_container_has_fewer_cores(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    """Shares of time in control groups of both versions; a part of a core is one."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores_of_group(tmp_path) == cores
    assert 1 <= usable_cores(tmp_path) <= (cores or psutil.cpu_count() or 1)


def test_a_system_without_affinity_counts_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS."""
    monkeypatch.delattr(psutil.Process, "cpu_affinity")
    assert usable_cores(tmp_path) == psutil.cpu_count()
