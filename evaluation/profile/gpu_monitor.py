"""Memory, clocks and throttling of the GPUs while something runs, asked for several times a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from ..report.nvml import THROTTLING, Gpu, nvidia_gpus

INTERVAL_S = 0.1

MIB = 1 << 20

END_S = 5.0
"""How long the last sample may take."""

Value = TypeVar("Value", int, float)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    memory: int | None
    clock_mhz: float | None
    temperature_c: float | None
    power_w: float | None
    reasons: int | None


class GpuMonitor:
    """Asks the driver while the block runs; `use` is empty where it tells nothing, as on a Jetson."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._gpus: tuple[Gpu, ...] = ()
        self._limits: tuple[float | None, ...] = ()
        self._samples: list[list[_Sample]] = []

    def __enter__(self) -> GpuMonitor:
        _, self._gpus = self._open.enter_context(nvidia_gpus())
        self._limits = tuple(gpu.clock_limit_mhz() for gpu in self._gpus)
        self._samples = [[] for _ in self._gpus]
        if self._gpus:
            self._thread = threading.Thread(target=self._watch, name="GPU monitor", daemon=True)
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
        return tuple(
            _use(gpu.index, limit, list(samples))
            for gpu, limit, samples in zip(self._gpus, self._limits, self._samples, strict=True)
            if samples
        )

    def _watch(self) -> None:
        while True:
            for gpu, samples in zip(self._gpus, self._samples, strict=True):
                samples.append(
                    _Sample(
                        memory=gpu.memory()[0],
                        clock_mhz=gpu.clock_mhz(),
                        temperature_c=gpu.temperature_c(),
                        power_w=gpu.power_w(),
                        reasons=gpu.clock_reasons(),
                    )
                )
            if self._stop.wait(INTERVAL_S):
                return


def _use(index: int, limit: float | None, samples: Sequence[_Sample]) -> GpuUse:
    def told(value: Callable[[_Sample], Value | None]) -> list[Value]:
        return [found for sample in samples if (found := value(sample)) is not None]

    memory, clocks = told(lambda sample: sample.memory), told(lambda sample: sample.clock_mhz)
    reasons = told(lambda sample: sample.reasons)
    return GpuUse(
        index=index,
        samples=len(samples),
        memory_before_mib=memory[0] / MIB if memory else None,
        memory_peak_mib=max(memory) / MIB if memory else None,
        clock_least_mhz=min(clocks, default=None),
        clock_greatest_mhz=max(clocks, default=None),
        clock_limit_mhz=limit,
        temperature_c=max(told(lambda sample: sample.temperature_c), default=None),
        power_w=max(told(lambda sample: sample.power_w), default=None),
        throttled=tuple(name for bit, name in THROTTLING.items() if any(bits & bit for bits in reasons)),
    )
