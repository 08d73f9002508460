"""What went on beside a measurement: load, other programs, clocks, GPUs and this process's memory."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gmos_deploy.evaluation.profile.gpu_monitor import FIELDS, GpuMonitor
from gmos_deploy.evaluation.profile.machine_state import MachineState, machine_state, machine_use
from gmos_deploy.evaluation.profile.process_memory import forget_peak, peak_mib, process_age_s, resident_mib

HELD_BYTES = 64 << 20


def state(at_s: float, busy_s: float | None, own_s: float = 0.0, **fields: float | None) -> MachineState:
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
    before, after = state(0, None, stolen_s=4), state(10, None, stolen_s=6, greatest_clock_mhz=4000.0)
    hypervisor, clock = machine_use(before, after, cores=2).warnings()
    assert hypervisor == "the hypervisor took 10% of the processor: all times are upper bounds"
    assert clock == "the processor ran at 2000 MHz, 4000 are its greatest clock"


def test_the_systems_files_are_read(tmp_path: Path) -> None:
    """Busy time is all but idling, waiting and stolen; kilohertz become megahertz."""
    proc, clocks = tmp_path / "proc", tmp_path / "cpufreq"
    proc.mkdir()
    clocks.mkdir()
    (proc / "loadavg").write_text("1.25 0.80 0.60 2/345 6789\n")
    (proc / "stat").write_text("cpu  100 20 30 9000 400 5 6 70 0 0\ncpu0 1 2 3\n")
    (clocks / "scaling_cur_freq").write_text("1500000\n")
    (clocks / "cpuinfo_max_freq").write_text("3000000\n")
    found = machine_state(proc, clocks)
    ticks = os.sysconf("SC_CLK_TCK")
    assert found.busy_s == pytest.approx((100 + 20 + 30 + 5 + 6) / ticks)
    assert found.stolen_s == pytest.approx(70 / ticks)
    assert (found.load_average, found.clock_mhz, found.greatest_clock_mhz) == (1.25, 1500.0, 3000.0)
    (proc / "cpuinfo").write_text("cpu MHz\t\t: 1000.0\nother: 1\ncpu MHz\t\t: 2000.5\n")
    assert machine_state(proc, clocks).clock_mhz == pytest.approx(1500.25)


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    """Is no error: all is unknown, and nothing is warned of."""
    found = machine_state(tmp_path, tmp_path)
    assert (found.load_average, found.clock_mhz, found.busy_s, found.stolen_s) == (None,) * 4
    use = machine_use(found, machine_state(tmp_path, tmp_path))
    assert use.others_cores is None
    assert use.warnings() == []


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts an nvidia-smi on the path that runs these lines of a shell."""

    def install(body: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


def wait_for(monitor: GpuMonitor, samples: int) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until and sum(gpu.samples for gpu in monitor.use) < samples:
        time.sleep(0.01)


def test_the_gpu_is_watched(nvidia_smi: Callable[[str], None]) -> None:
    """Peak memory, clocks and what throttled it; what is not told is unknown; the watcher is ended."""
    nvidia_smi(
        'echo "$@" > "$0.arguments"\n'
        "echo '0, 100, 1500, 1980, 60, 250.5, 0x0000000000000004'\n"
        "echo '1, [N/A], 300, [N/A], 30, [N/A], 0x0000000000000001'\n"
        "echo 'no such line'\n"
        "echo '0, 900, 1200, 1980, 71, 300.0, 0x0000000000000041'\n"
        "echo '0, 400, 1980, 1980, 70, 280.0, Not Active'\n"
        "exec sleep 60"
    )
    start = time.monotonic()
    with GpuMonitor() as monitor:
        wait_for(monitor, 4)
    assert time.monotonic() - start < 30
    first, second = monitor.use
    assert (first.memory_before_mib, first.memory_peak_mib) == (100, 900)
    assert (first.clock_least_mhz, first.clock_greatest_mhz, first.clock_limit_mhz) == (1200, 1980, 1980)
    assert (first.temperature_c, first.power_w, first.samples) == (71, 300, 3)
    assert first.throttled == ("software power limit", "hardware thermal limit")
    assert first.warnings() == [
        "GPU 0 was throttled (software power limit, hardware thermal limit): times are upper bounds"
    ]
    assert (second.memory_peak_mib, second.power_w, second.throttled) == (None, None, ())
    assert second.warnings() == []
    asked = (Path(os.environ["PATH"].split(":")[0]) / "nvidia-smi.arguments").read_text()
    assert asked.split() == [
        f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits", "--loop-ms=100"
    ]  # fmt: skip


@pytest.mark.parametrize("body", ["exit 9", "echo 'NVIDIA-SMI has failed'; exit 1"])
def test_an_nvidia_smi_that_fails_says_nothing(nvidia_smi: Callable[[str], None], body: str) -> None:
    """Nor does one that is not there."""
    nvidia_smi(body)
    with GpuMonitor() as monitor:
        time.sleep(0.05)
    assert monitor.use == ()


def test_no_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a Jetson."""
    monkeypatch.setenv("PATH", "")
    with GpuMonitor() as monitor:
        pass
    assert monitor.use == ()


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
    assert resident_mib(tmp_path) is None
    assert process_age_s(tmp_path) is None


def test_the_age_of_this_process() -> None:
    """Grows with time."""
    first = process_age_s()
    if first is None:
        pytest.skip("this system does not tell when a process started")
    time.sleep(0.02)
    assert 0 < first < (process_age_s() or 0)
