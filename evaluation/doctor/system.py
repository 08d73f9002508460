"""What the operating system says: limits of the control group, the Jetson's release, the package manager."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PCI_DEVICES = "sys/bus/pci/devices"
NVIDIA_VENDOR, DISPLAY_CLASS = "0x10de", "0x03"

LEAST_LIMIT = 1 << 60
"""From here on a memory limit of version 1 means none: it is the largest number that there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of the control groups that this process is in; None where there is no limit."""

    cores: float | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Jetson:
    """A Jetson: its model, and the release of its system as (36, "4.3")."""

    model: str
    release: tuple[int, str]

    @property
    def jetpack(self) -> int | None:
        """The JetPack that the release belongs to; None of one that is not known."""
        return {35: 5, 36: 6, 38: 7}.get(self.release[0])

    def __str__(self) -> str:
        known = "" if self.jetpack is None else f", JetPack {self.jetpack}"
        return f"{self.model}, Jetson Linux {self.release[0]}.{self.release[1]}{known}"


def group_limits(root: Path = Path("/")) -> Limits:
    """The least limits of the groups of this process and of those around them, of version 2 and of version 1.

    Args:
        root: of the file system.
    """
    mount, cores, memory = root / "sys/fs/cgroup", [], []
    for controllers, path in _memberships(root):
        for group in (path, *path.parents):
            inside = group.relative_to("/")
            if not controllers:
                cores += _quota(_words(mount / inside / "cpu.max"))
                memory += _bytes(_words(mount / inside / "memory.max"))
            for name in {"cpu", "cpu,cpuacct"} if "cpu" in controllers else ():
                folder = mount / name / inside
                pair = [_words(folder / f"cpu.cfs_{part}_us") for part in ("quota", "period")]
                cores += _quota([word for words in pair for word in words])
            if "memory" in controllers:
                memory += _bytes(_words(mount / "memory" / inside / "memory.limit_in_bytes"))
    return Limits(cores=min(cores, default=None), memory_bytes=min(memory, default=None))


def _memberships(root: Path) -> Iterator[tuple[set[str], Path]]:
    """Controllers and group of each line; version 2 names no controllers."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # A container may be shown the path that its host knows: what it is inside of is the mount itself.
        yield (
            set(controllers.split(",")) - {""},
            Path("/", *(part for part in path.split("/") if part != "..")),
        )


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def _quota(words: list[str]) -> list[float]:
    """Microseconds of processor time and of the period that they are for, as cores; "max" and -1 are no limit."""
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):
        return []
    return [int(words[0]) / int(words[1])]


def _bytes(words: list[str]) -> list[int]:
    found = [int(word) for word in words if word.isdecimal()]
    return [value for value in found if value < LEAST_LIMIT]


def find_jetson(root: Path = Path("/")) -> Jetson | None:
    """The Jetson that this is, if it is one."""
    try:
        text = (root / "etc/nv_tegra_release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    try:
        model = (root / "proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        model = "Jetson"
    return Jetson(model=model, release=(int(release[1]), release[2]) if release else (0, "unknown"))


def has_nvidia_card(root: Path = Path("/")) -> bool:
    """Whether an NVIDIA GPU is on the PCI bus, with a driver or without."""
    return any(
        _words(device / "vendor") == [NVIDIA_VENDOR]
        and "".join(_words(device / "class")).startswith(DISPLAY_CLASS)
        for device in (root / PCI_DEVICES).glob("*")
    )


def install_driver(root: Path = Path("/")) -> str:
    """The command that installs NVIDIA's driver on this system; empty where there is none that always works."""
    try:
        text = (root / "etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return ""
    ids = set(re.findall(r"[\w.-]+", " ".join(re.findall(r"^ID(?:_LIKE)?=(.*)$", text, re.MULTILINE))))
    if "ubuntu" in ids:
        return "sudo ubuntu-drivers install"
    return "sudo apt install nvidia-driver" if "debian" in ids else ""


def existing_folder(path: Path) -> Path:
    """The folder itself, or the nearest one around it that exists."""
    return next(place for place in (path, *path.parents) if place.is_dir())
