"""Memory, clocks and throttling of the GPUs while something runs, as nvidia-smi tells it several times a second."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from types import TracebackType

INTERVAL_MS = 100

FIELDS = (
    "index",
    "memory.used",
    "clocks.sm",
    "clocks.max.sm",
    "temperature.gpu",
    "power.draw",
    "clocks_throttle_reasons.active",
)

THROTTLING = {
    0x4: "software power limit",
    0x8: "hardware slowdown",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "hardware power brake",
}
"""Bits of NVML's clock event reasons that mean slower than asked for; idling and set clocks do not."""

END_S = 5.0
"""How long nvidia-smi may take to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """One GPU over some time; None where nvidia-smi does not say.

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
    """Asks nvidia-smi while the block runs; `use` is empty where there is none, as on a Jetson."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._rows: list[list[str]] = []

    def __enter__(self) -> GpuMonitor:
        program = shutil.which("nvidia-smi")
        if program is None:
            return self
        command = [
            program,
            f"--query-gpu={','.join(FIELDS)}",
            "--format=csv,noheader,nounits",
            f"--loop-ms={INTERVAL_MS}",
        ]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a fixed command
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            return self
        self._reader = threading.Thread(target=self._read, name="nvidia-smi", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End nvidia-smi."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join(END_S)

    @property
    def use(self) -> tuple[GpuUse, ...]:
        """What was seen so far of every GPU."""
        indices = sorted({row[0] for row in self._rows})
        return tuple(_use([row for row in self._rows if row[0] == index]) for index in indices)

    def _read(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        with self._process.stdout as lines:
            for line in lines:
                cells = [cell.strip() for cell in line.split(",")]
                if len(cells) == len(FIELDS) and cells[0].isdecimal():
                    self._rows.append(cells)


def _use(rows: list[list[str]]) -> GpuUse:
    columns = {name: [row[place] for row in rows] for place, name in enumerate(FIELDS)}
    memory, clocks = _numbers(columns["memory.used"]), _numbers(columns["clocks.sm"])
    bits = 0
    for word in columns["clocks_throttle_reasons.active"]:
        bits |= int(word, 16) if word.startswith("0x") else 0
    return GpuUse(
        index=int(rows[0][0]),
        samples=len(rows),
        memory_before_mib=memory[0] if memory else None,
        memory_peak_mib=max(memory, default=None),
        clock_least_mhz=min(clocks, default=None),
        clock_greatest_mhz=max(clocks, default=None),
        clock_limit_mhz=max(_numbers(columns["clocks.max.sm"]), default=None),
        temperature_c=max(_numbers(columns["temperature.gpu"]), default=None),
        power_w=max(_numbers(columns["power.draw"]), default=None),
        throttled=tuple(name for bit, name in THROTTLING.items() if bits & bit),
    )


def _numbers(cells: list[str]) -> list[float]:
    """What is a number among them: nvidia-smi writes [N/A] where it does not know."""
    return [float(cell) for cell in cells if re.fullmatch(r"[\d.]+", cell)]
