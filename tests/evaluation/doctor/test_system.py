"""What the operating system says, read from files as they are on the machines in question."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmos_deploy.evaluation.doctor.system import (
    Limits,
    find_jetson,
    group_limits,
    has_nvidia_card,
    install_driver,
)

GIB = 1 << 30


def write(root: Path, **files: str) -> None:
    """Files by their path, in which `__` is a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_version_2_takes_the_least_of_all_groups_around(tmp_path: Path) -> None:
    """A service within a slice: both bound it."""
    write(
        tmp_path,
        proc__self__cgroup="0::/user.slice/job\n",
        sys__fs__cgroup__user__placeholder="",
    )
    mount = tmp_path / "sys/fs/cgroup"
    write(mount / "user.slice", memory=str(8 * GIB))
    (mount / "user.slice/memory.max").write_text(f"{8 * GIB}\n")
    write(mount / "user.slice/job", x="")
    (mount / "user.slice/job/memory.max").write_text("max\n")
    (mount / "user.slice/job/cpu.max").write_text("150000 100000\n")
    (mount / "user.slice/cpu.max").write_text("max 100000\n")
    assert group_limits(tmp_path) == Limits(cores=1.5, memory_bytes=8 * GIB)


def test_version_1_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    """In a container, which is shown the path that its host knows and finds itself at the mount."""
    lines = ("12:cpu,cpuacct:/docker/abc", "7:memory:/docker/abc", "1:name=systemd:/docker/abc")
    write(tmp_path, proc__self__cgroup="\n".join(lines) + "\n")
    mount = tmp_path / "sys/fs/cgroup"
    for folder, name, text in (
        ("cpu,cpuacct", "cpu.cfs_quota_us", "50000"),
        ("cpu,cpuacct", "cpu.cfs_period_us", "100000"),
        ("memory", "memory.limit_in_bytes", str(2 * GIB)),
    ):
        (mount / folder).mkdir(parents=True, exist_ok=True)
        (mount / folder / name).write_text(f"{text}\n")
    assert group_limits(tmp_path) == Limits(cores=0.5, memory_bytes=2 * GIB)


@pytest.mark.parametrize("quota", ["-1", "max"])
def test_no_limit_is_none(quota: str, tmp_path: Path) -> None:
    """Neither the largest number of version 1, nor a quota below zero, nor no file at all."""
    assert group_limits(tmp_path) == Limits(cores=None, memory_bytes=None)
    write(tmp_path, proc__self__cgroup="2:cpu:/\n3:memory:/\n")
    for folder, name, text in (
        ("cpu", "cpu.cfs_quota_us", quota),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("memory", "memory.limit_in_bytes", "9223372036854771712"),
    ):
        place = tmp_path / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    assert group_limits(tmp_path) == Limits(cores=None, memory_bytes=None)


@pytest.mark.parametrize(
    ("release", "revision", "jetpack"), [("36", "4.3", 6), ("38", "2.0", 7), ("35", "6.1", 5)]
)
def test_a_jetson_knows_its_jetpack(release: str, revision: str, jetpack: int, tmp_path: Path) -> None:
    """By the release of its system."""
    text = f"# R{release} (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    write(tmp_path, etc__nv_tegra_release=text)
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("NVIDIA Jetson Orin Nano\0")
    found = find_jetson(tmp_path)
    assert found is not None
    assert found.jetpack == jetpack
    assert str(found) == f"NVIDIA Jetson Orin Nano, Jetson Linux {release}.{revision}, JetPack {jetpack}"


def test_other_machines_are_no_jetson(tmp_path: Path) -> None:
    """And a release that is not known is no reason to fail."""
    assert find_jetson(tmp_path) is None
    write(tmp_path, etc__nv_tegra_release="# something new\n")
    found = find_jetson(tmp_path)
    assert found is not None
    assert found.jetpack is None


def test_a_card_without_a_driver_is_seen_on_the_bus(tmp_path: Path) -> None:
    """NVIDIA's sound and network devices are no GPUs."""
    bus = tmp_path / "sys/bus/pci/devices"
    for name, vendor, kind in (("a", "0x10de", "0x040300"), ("b", "0x8086", "0x030000")):
        (bus / name).mkdir(parents=True)
        (bus / name / "vendor").write_text(f"{vendor}\n")
        (bus / name / "class").write_text(f"{kind}\n")
    assert not has_nvidia_card(tmp_path)
    (bus / "a/class").write_text("0x030200\n")
    assert has_nvidia_card(tmp_path)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n', "sudo ubuntu-drivers install"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "sudo ubuntu-drivers install"),
        ("ID=debian\n", "sudo apt install nvidia-driver"),
        ("ID=fedora\n", ""),
    ],
)
def test_the_driver_comes_from_the_system(text: str, command: str, tmp_path: Path) -> None:
    """Only commands that systems of that kind have are named."""
    write(tmp_path, **{"etc__os-release": text})
    assert install_driver(tmp_path) == command
