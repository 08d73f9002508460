"""The machine while it is measured: load, other programs, clocks, GPUs, and the memory of this process."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from ...runtime.host_memory import usable_cores
from ..report.environment import THROTTLING, AskGpus, GpuState, nvidia_gpus

BUSY = ("user", "nice", "system", "irq", "softirq", "interrupt", "dpc")
"""Times of psutil that a core works in, of Linux, macOS and Windows; idling, waiting and what was stolen are none."""

BUSY_CORES = 0.1
"""Cores that others may use before a report warns: interrupts and services of a quiet machine take less."""
STOLEN_SHARE = 0.01
SLOW_CLOCK = 0.9
"""Share of the greatest clock below which a processor counts as slowed down."""

INTERVAL_S = 0.1
"""Between two looks at the GPUs."""

END_S = 5.0
"""How long the last look may take."""

MIB = 1 << 20

PROCESS = Path("/proc/self")

FORGET_PEAK = "5"
"""Written to clear_refs: the greatest resident memory starts anew (Linux 4.0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineState:
    """Counters of a moment; what the system does not tell is None.

    `busy_s` and `stolen_s` are the seconds of all cores since it started, `own_s` those of this process
    and of the children it has waited for, `at_s` a monotonic clock.
    """

    load_average: float
    clock_mhz: float | None
    greatest_clock_mhz: float | None
    busy_s: float
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


def machine_state() -> MachineState:
    """The counters now."""
    own, cores, clock = os.times(), psutil.cpu_times(), psutil.cpu_freq()
    return MachineState(
        load_average=psutil.getloadavg()[0],
        clock_mhz=(clock.current or None) if clock else None,
        greatest_clock_mhz=(clock.max or None) if clock else None,
        busy_s=sum(getattr(cores, name, 0.0) for name in BUSY),
        stolen_s=getattr(cores, "steal", None),
        own_s=own.user + own.system + own.children_user + own.children_system,
        at_s=time.monotonic(),
    )


def machine_use(before: MachineState, after: MachineState, cores: int | None = None) -> MachineUse:
    """What happened between two moments."""
    cores = usable_cores() if cores is None else cores
    seconds = max(after.at_s - before.at_s, 1e-3)
    stolen = None
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
        return float(psutil.Process().memory_info().peak_wset) / MIB
    else:  # noqa: RET505 - the type checker reads what a platform has by its branches
        import resource  # noqa: PLC0415 - not there on Windows, where this module is imported too

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def resident_mib() -> float:
    """What the process holds now."""
    return float(psutil.Process().memory_info().rss) / MIB


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """One GPU over some time; None where the driver does not tell.

    Memory in MiB is the whole device's, by all programs: `memory_before_mib` at the first sample. Clocks in
    MHz, degrees Celsius, watts.
    """

    index: int
    samples: int
    memory_before_mib: float | None
    memory_peak_mib: float | None
    clock_least_mhz: float | None
    clock_greatest_mhz: float | None
    clock_limit_mhz: float | None
    temperature_c: float | None
    power_w: float | None
    throttled: tuple[str, ...]

    def warnings(self) -> list[str]:
        """What slowed it down, in words."""
        if not self.throttled:
            return []
        return [f"GPU {self.index} was throttled ({', '.join(self.throttled)}): times are upper bounds"]


class GpuMonitor:
    """Asks the driver while the block runs; `use` is empty where it tells nothing, as on a Jetson."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: list[list[GpuState]] = []

    def __enter__(self) -> GpuMonitor:
        _, ask = self._open.enter_context(nvidia_gpus())
        first = ask()
        if first:
            self._samples.append(first)
            self._thread = threading.Thread(target=self._watch, args=(ask,), name="GPU monitor", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the watch."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(END_S)
        self._open.close()

    @property
    def use(self) -> tuple[GpuUse, ...]:
        """What was seen so far of every GPU."""
        return tuple(_use(samples) for samples in zip(*list(self._samples), strict=True))

    def _watch(self, ask: AskGpus) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._samples.append(ask())


def _use(samples: Sequence[GpuState]) -> GpuUse:
    def told(name: str) -> list[Any]:
        return [found for sample in samples if (found := getattr(sample, name)) is not None]

    memory, clocks, reasons = told("memory_used"), told("clock_mhz"), told("reasons")
    return GpuUse(
        index=samples[0].index,
        samples=len(samples),
        memory_before_mib=memory[0] / MIB if memory else None,
        memory_peak_mib=max(memory) / MIB if memory else None,
        clock_least_mhz=min(clocks, default=None),
        clock_greatest_mhz=max(clocks, default=None),
        clock_limit_mhz=samples[0].clock_limit_mhz,
        temperature_c=max(told("temperature_c"), default=None),
        power_w=max(told("power_w"), default=None),
        throttled=tuple(name for bit, name in THROTTLING.items() if any(bits & bit for bits in reasons)),
    )
