"""Whether the machine was quiet while it was measured: load, other programs, clocks of the processor."""

from __future__ import annotations

import os
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from ..benchmarks.parallel import available_cores

PROC, CLOCKS = Path("/proc"), Path("/sys/devices/system/cpu/cpu0/cpufreq")

BUSY_CORES = 0.1
"""Cores that others may use before a report warns: interrupts and services of a quiet machine take less."""
STOLEN_SHARE = 0.01
SLOW_CLOCK = 0.9
"""Share of the greatest clock below which a processor counts as slowed down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """Counters of a moment; what the system does not tell is None.

    `busy_s` and `stolen_s` are the seconds of all cores since it started, `own_s` those of this process
    and of the children it has waited for, `at_s` a monotonic clock.
    """

    load_average: float | None
    clock_mhz: float | None
    greatest_clock_mhz: float | None
    busy_s: float | None
    stolen_s: float | None
    own_s: float
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineUse:
    """Between two moments: load averages of one minute, cores that others used, the share taken by a hypervisor."""

    load_before: float | None
    load_after: float | None
    others_cores: float | None
    stolen_share: float | None
    clock_before_mhz: float | None
    clock_after_mhz: float | None
    greatest_clock_mhz: float | None
    cores: int

    def warnings(self) -> list[str]:
        """What made the times longer than they would be, in words."""
        found = []
        if self.others_cores is not None and self.others_cores > BUSY_CORES:
            found.append(
                f"other programs used {self.others_cores:.1f} of {self.cores} cores: all times are upper bounds"
            )
        if self.stolen_share is not None and self.stolen_share > STOLEN_SHARE:
            found.append(
                f"the hypervisor took {self.stolen_share:.0%} of the processor: all times are upper bounds"
            )
        clocks = [clock for clock in (self.clock_before_mhz, self.clock_after_mhz) if clock is not None]
        if clocks and self.greatest_clock_mhz and min(clocks) < SLOW_CLOCK * self.greatest_clock_mhz:
            found.append(
                f"the processor ran at {min(clocks):.0f} MHz, {self.greatest_clock_mhz:.0f} are its greatest clock"
            )
        return found


def machine_state(proc: Path = PROC, clocks: Path = CLOCKS) -> MachineState:
    """The counters now."""
    times = os.times()
    busy_s, stolen_s = _busy(proc)
    return MachineState(
        load_average=_number(proc / "loadavg", r"^([\d.]+)"),
        clock_mhz=_clock_mhz(proc, clocks),
        greatest_clock_mhz=_scaled(_number(clocks / "cpuinfo_max_freq", r"^(\d+)")),
        busy_s=busy_s,
        stolen_s=stolen_s,
        own_s=times.user + times.system + times.children_user + times.children_system,
        at_s=time.monotonic(),
    )


def machine_use(before: MachineState, after: MachineState, cores: int | None = None) -> MachineUse:
    """What happened between two moments."""
    cores = available_cores() if cores is None else cores
    seconds = max(after.at_s - before.at_s, 1e-3)
    others = stolen = None
    if before.busy_s is not None and after.busy_s is not None:
        others = max(0.0, (after.busy_s - before.busy_s - (after.own_s - before.own_s)) / seconds)
    if before.stolen_s is not None and after.stolen_s is not None:
        stolen = (after.stolen_s - before.stolen_s) / seconds / cores
    return MachineUse(
        load_before=before.load_average,
        load_after=after.load_average,
        others_cores=others,
        stolen_share=stolen,
        clock_before_mhz=before.clock_mhz,
        clock_after_mhz=after.clock_mhz,
        greatest_clock_mhz=after.greatest_clock_mhz,
        cores=cores,
    )


def _busy(proc: Path) -> tuple[float | None, float | None]:
    """Seconds of all cores that were used, and that a hypervisor took."""
    text = _text(proc / "stat")
    if text is None or not text.startswith("cpu "):
        return None, None
    # user nice system idle iowait irq softirq steal, in ticks since the start
    ticks = [int(word) for word in text.splitlines()[0].split()[1:9]]
    per_second = os.sysconf("SC_CLK_TCK")
    stolen = ticks[7] / per_second if len(ticks) > 7 else None
    return sum(ticks[place] for place in (0, 1, 2, 5, 6)) / per_second, stolen


def _clock_mhz(proc: Path, clocks: Path) -> float | None:
    """The mean clock of the cores."""
    found = [
        float(mhz) for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _text(proc / "cpuinfo") or "", re.M)
    ]
    if found:
        return statistics.fmean(found)
    return _scaled(_number(clocks / "scaling_cur_freq", r"^(\d+)"))


def _scaled(kilohertz: float | None) -> float | None:
    return None if kilohertz is None else kilohertz / 1000


def _number(path: Path, pattern: str) -> float | None:
    found = re.match(pattern, _text(path) or "")
    return float(found[1]) if found else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
