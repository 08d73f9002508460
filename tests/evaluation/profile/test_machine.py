"""What went on beside a measurement: load, other programs, clocks, GPUs and this process's memory."""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from gmos_deploy.evaluation.profile import machine
from gmos_deploy.evaluation.profile.machine import (
    GpuMonitor,
    MachineState,
    forget_peak,
    machine_state,
    machine_use,
    peak_mib,
    process_age_s,
    resident_mib,
)
from gmos_deploy.evaluation.report.environment import environment

HELD_BYTES = 64 << 20


def state(at_s: float, busy_s: float, own_s: float = 0.0, **fields: float | None) -> MachineState:
    known: dict[str, float | None] = {
        "load_average": 0.5, "clock_mhz": 2000.0, "greatest_clock_mhz": None, "stolen_s": 0.0, **fields
    }  # fmt: skip
    return MachineState(at_s=at_s, busy_s=busy_s, own_s=own_s, **known)  # type: ignore[arg-type]


def test_a_quiet_machine_has_no_warnings() -> None:
    """All that was used was this process's own."""
    use = machine_use(state(0, 50, 3), state(10, 65, 18), cores=2)
    assert use.others_cores == 0
    assert use.warnings() == []


def test_other_programs_are_said() -> None:
    """Twelve seconds of two cores in ten, of which this process used five."""
    use = machine_use(state(0, 50, 3), state(10, 62, 8, load_average=3.5), cores=2)
    assert use.others_cores == pytest.approx(0.7)
    assert use.load_after == 3.5
    assert use.warnings() == ["other programs used 0.7 of 2 cores: all times are upper bounds"]


def test_a_hypervisor_and_a_slow_clock_are_said() -> None:
    """A tenth of two cores was taken, and the clock was at half."""
    before, after = state(0, 50, stolen_s=4), state(10, 50, stolen_s=6, greatest_clock_mhz=4000.0)
    hypervisor, clock = machine_use(before, after, cores=2).warnings()
    assert hypervisor == "the hypervisor took 10% of the processor: all times are upper bounds"
    assert clock == "the processor ran at 2000 MHz, 4000 are its greatest clock"


def test_counters_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy time is all but idling, waiting and stolen; a clock that is not told is unknown."""
    cores = SimpleNamespace(
        user=100.0, nice=20.0, system=30.0, idle=9000.0, iowait=400.0, irq=5.0, steal=70.0
    )
    monkeypatch.setattr(psutil, "cpu_times", lambda: cores)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (1.25, 0.8, 0.6))
    monkeypatch.setattr(psutil, "cpu_freq", lambda: SimpleNamespace(current=1500.0, max=3000.0))
    found = machine_state()
    assert (found.busy_s, found.stolen_s, found.load_average) == (155.0, 70.0, 1.25)
    assert (found.clock_mhz, found.greatest_clock_mhz) == (1500.0, 3000.0)
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    del cores.steal
    found = machine_state()
    assert (found.clock_mhz, found.greatest_clock_mhz, found.stolen_s) == (None, None, None)
    assert machine_use(found, machine_state(), cores=2).warnings() == []


class FakeNvml(ModuleType):
    """NVML with these samples of each GPU, one after another; a value that is missing is not told."""

    class NVMLError(Exception):
        """As NVML's."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = "sm", "gpu"

    def __init__(self, *gpus: list[dict[str, Any]], working: bool = True) -> None:
        super().__init__("pynvml")
        self._gpus = gpus
        self._working = working
        self.asked = [0] * len(gpus)
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self._working:
            raise self.NVMLError("no driver")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.1"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def __getattr__(self, question: str) -> Callable[..., Any]:
        if not question.startswith("nvmlDeviceGet"):
            raise AttributeError(question)

        def answer(gpu: int, *_: Any) -> Any:
            samples = self._gpus[gpu]
            sample = samples[min(self.asked[gpu], len(samples) - 1)]
            if question == "nvmlDeviceGetCurrentClocksThrottleReasons":
                self.asked[gpu] += 1
            key = question.removeprefix("nvmlDeviceGet")
            if key not in sample:
                raise self.NVMLError("not supported")
            return sample[key]

        return answer


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    """Puts a library in NVML's place."""

    def install(*gpus: list[dict[str, Any]], working: bool = True) -> FakeNvml:
        fake = FakeNvml(*gpus, working=working)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        monkeypatch.setattr(machine, "INTERVAL_S", 0.001)
        return fake

    return install


def sample(used_mib: int, clock: int, celsius: int, watts: float, reasons: int) -> dict[str, Any]:
    return {
        "Name": "Fake", "MemoryInfo": SimpleNamespace(used=used_mib << 20, total=1000 << 20), "ClockInfo": clock,
        "MaxClockInfo": 1980, "Temperature": celsius, "PowerUsage": int(1000 * watts),
        "CurrentClocksThrottleReasons": reasons, "CudaComputeCapability": (9, 0),
    }  # fmt: skip


def test_the_gpu_is_watched(nvml: Callable[..., FakeNvml]) -> None:
    """Peak memory, clocks and what throttled it; what is not told, as by a Jetson, is unknown; the watch is ended."""
    told = [
        sample(100, 1500, 60, 250.5, 0x4),
        sample(900, 1200, 71, 300, 0x41),
        sample(400, 1980, 70, 280, 0),
    ]
    fake = nvml(told, [{"ClockInfo": 300}])
    until = time.monotonic() + 10
    with GpuMonitor() as monitor:
        while time.monotonic() < until and fake.asked[0] < len(told):
            time.sleep(0.01)
    assert fake.open == 0
    first, second = monitor.use
    assert (first.memory_before_mib, first.memory_peak_mib) == (100, 900)
    assert (first.clock_least_mhz, first.clock_greatest_mhz, first.clock_limit_mhz) == (1200, 1980, 1980)
    assert (first.temperature_c, first.power_w) == (71, 300)
    assert first.samples >= len(told)
    assert first.throttled == ("software power limit", "hardware thermal limit")
    assert first.warnings() == [
        "GPU 0 was throttled (software power limit, hardware thermal limit): times are upper bounds"
    ]
    assert (second.memory_peak_mib, second.power_w, second.throttled) == (None, None, ())
    assert second.warnings() == []


def test_the_gpus_of_an_environment(nvml: Callable[..., FakeNvml]) -> None:
    """As a report has them; what a driver does not tell is said to be so."""
    nvml([sample(100, 1500, 60, 250.5, 0x4)], [{"Name": "Orin"}])
    first, second = environment([])["gpus"]
    assert first == {
        "name": "Fake",
        "driver_version": "580.1",
        "memory.total": "1000 MiB",
        "compute_cap": "9.0",
        "clocks.sm": "1500 MHz",
        "clocks_throttle_reasons.active": "0x0000000000000004",
    }
    assert (second["name"], second["compute_cap"], second["clocks.sm"]) == ("Orin", "not told", "not told")


def test_no_driver(nvml: Callable[..., FakeNvml]) -> None:
    """Nothing is told."""
    nvml([sample(1, 1, 1, 1, 0)], working=False)
    with GpuMonitor() as monitor:
        pass
    assert monitor.use == ()


def test_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor without its package."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with GpuMonitor() as monitor:
        pass
    assert monitor.use == ()
    assert environment([])["gpus"] == []


def test_the_peak_is_forgotten() -> None:
    """What was large before a side was loaded does not count for it."""
    if not forget_peak():
        pytest.skip("this system keeps the peak of the whole process")
    # Mapped, not allocated: what malloc gives may come from memory that the process keeps.
    with mmap.mmap(-1, HELD_BYTES) as held:
        held.write(b"\1" * HELD_BYTES)
        high = peak_mib()
    assert high >= HELD_BYTES / 2**20
    assert forget_peak()
    assert peak_mib() < high - HELD_BYTES / 2**21
    assert resident_mib() == pytest.approx(peak_mib(), abs=16)


def test_a_system_without_process_files(tmp_path: Path) -> None:
    """Falls back on the peak of the whole process."""
    assert not forget_peak(tmp_path / "none")
    assert peak_mib(tmp_path) > 1
    assert process_age_s(tmp_path) is None


def test_the_age_of_this_process() -> None:
    """Grows with time."""
    first = process_age_s()
    if first is None:
        pytest.skip("this system does not tell when a process started")
    time.sleep(0.02)
    assert 0 < first < (process_age_s() or 0)
