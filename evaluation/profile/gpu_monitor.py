"""Memory, clocks and throttling of the GPUs while something runs, asked for several times a second."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..report.nvml import THROTTLING, AskGpus, GpuState, nvidia_gpus

INTERVAL_S = 0.1

MIB = 1 << 20

END_S = 5.0
"""How long the last sample may take."""


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
