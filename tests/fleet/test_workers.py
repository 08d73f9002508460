"""Workers of this machine: shares, deaths, a bad video, an interruption; results as of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.fleet import shares
from gmos_deploy.fleet.sequence_runner import RunSettings
from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.pipeline.options import RunOptions

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

LIMIT_S = 120.0
SCRIPT = Path(__file__).with_name("colours_run.py")
BASE = ("--stride", 1, "--save_mode", "mask", "--backend", "colours", "--preset", "tiny", "--variant", "gmos")


def solid(place: Path, rgb: tuple[int, int, int]) -> Path:
    """A video of one colour."""
    place.mkdir(parents=True)
    for index in range(3):
        Image.fromarray(np.full((64, 96, 3), rgb, np.uint8)).save(place / f"{index:05d}.png")
    return place


def command(folder: Path, out: Path, *given: Any) -> list[str]:
    return [str(one) for one in (sys.executable, SCRIPT, folder, *given, *BASE, "--save_dir", out)]


def run(folder: Path, out: Path, *given: Any) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        command(folder, out, *given, "--json"), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def results(out: Path) -> dict[str, bytes]:
    found = {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }
    assert found
    assert not any("work-" in name or "claims" in name for name in found)
    return found


def test_deaths_bad_videos_and_poison(clips: Callable[..., list[Path]], tmp_path: Path) -> None:
    """Two workers on six videos: one kills its worker once, one always, one is none; the others as in one process."""
    good = clips("a", "b", "c")
    once, poison = solid(tmp_path / "videos/once", (0, 0, 0)), solid(tmp_path / "videos/poison", (255,) * 3)
    videos = [good[0], poison, good[1], tmp_path / "gone.mp4", once, good[2]]
    status, found, log = run(tmp_path, tmp_path / "out", *videos, "--workers", 2, "--threads", 1)
    assert status == 3, log
    by_name = {one["name"]: one for one in found["sequences"]}
    assert {name: one["status"] for name, one in by_name.items()} == {
        **dict.fromkeys(("a", "b", "c", "once"), "done"),
        **dict.fromkeys(("poison", "gone"), "failed"),
    }
    assert by_name["poison"]["error"] == "it killed 3 workers (SIGKILL, as when memory runs out)"
    assert "does not exist" in by_name["gone"]["error"]
    assert "poison: worker" in log
    assert found["backend"] == "colours"
    # The plain run; `once` has died.
    status, _, log = run(tmp_path, tmp_path / "plain", *good, once, "--threads", 1)
    assert status == 0, log
    assert results(tmp_path / "out") == results(tmp_path / "plain")


def started(tmp_path: Path, *given: Any) -> subprocess.Popen[str]:
    """A run in a session of its own, which has come to a video that waits."""
    process = subprocess.Popen(
        command(tmp_path, tmp_path / "out", *given, "--workers", 1, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What started the tests may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    until = time.monotonic() + LIMIT_S
    while not (tmp_path / "waiting").exists() and time.monotonic() < until:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    return process


def ended(group: int) -> bool:
    """Whether all processes of a group end within a time."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_an_interruption_ends_the_workers_and_keeps_what_is_done(
    clips: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """Ctrl-C goes to all processes of a terminal; 130, the JSON of what ended, nothing half-written."""
    process = started(tmp_path, *clips("a"), solid(tmp_path / "videos/slow", (0, 0, 255)))
    os.killpg(process.pid, signal.SIGINT)
    out, log = process.communicate(timeout=60)
    assert process.returncode == 130, log
    assert [one["name"] for one in json.loads(out)["sequences"]] == ["a"]
    assert log.splitlines()[-1] == "gmos-run: interrupted; what was finished is kept"
    assert {name.split("/")[0] for name in results(tmp_path / "out")} == {".gmos", "mos-i_frame", "mos_frame"}
    assert not (tmp_path / "out/mos_frame/slow").exists()
    assert ended(process.pid)


def test_workers_end_with_a_run_that_is_killed(clips: Callable[..., list[Path]], tmp_path: Path) -> None:
    """And the next one takes its claims over."""
    videos = [*clips("a"), solid(tmp_path / "videos/slow", (0, 0, 255))]
    process = started(tmp_path, *videos)
    process.kill()
    process.communicate(timeout=60)
    assert ended(process.pid)
    assert list((tmp_path / "out/.gmos/claims").iterdir())
    (tmp_path / "go").touch()
    status, found, log = run(tmp_path, tmp_path / "out", *videos, "--resume")
    assert status == 0, log
    assert [one["status"] for one in found["sequences"]] == ["skipped", "done"]
    results(tmp_path / "out")


def test_networks_that_do_not_load_end_the_run(clips: Callable[..., list[Path]], tmp_path: Path) -> None:
    """Status 2 and one line; not three deaths of every video."""
    given = command(tmp_path, tmp_path / "out", *clips("a", "b"), "--workers", 2)
    done = subprocess.run(
        [one.replace("colours", "broken") if one == "colours" else one for one in given],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "gmos-run: there is no such device"
    assert done.stdout == ""


def test_shares_of_cores_memory_and_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets are those of all workers; cards are dealt out."""
    monkeypatch.setattr(shares, "usable_cores", lambda: 8)
    monkeypatch.setattr(shares, "device_count", lambda: 2)
    monkeypatch.delenv(shares.VISIBLE, raising=False)
    settings = RunSettings(
        networks=NetworkChoice(backend="torch", preset="tiny"),
        save_dir=tmp_path,
        options=RunOptions(host_budget=300, device_budget=200),
    )
    found = shares.local_shares(settings, 3)
    assert [one.settings.networks.threads for one in found] == [3, 3, 2]
    assert [one.environment["OMP_NUM_THREADS"] for one in found] == ["3", "3", "2"]
    assert [one.environment[shares.VISIBLE] for one in found] == ["0", "1", "0"]
    assert [one.settings.networks.memory_share for one in found] == [0.5, 1.0, 0.5]
    assert [one.settings.options.host_budget for one in found] == [100] * 3
    assert [one.settings.options.device_budget for one in found] == [100, 200, 100]
    monkeypatch.setenv(shares.VISIBLE, "GPU-a,GPU-b")
    assert [one.environment[shares.VISIBLE] for one in shares.local_shares(settings, 2)] == ["GPU-a", "GPU-b"]
    chosen = RunSettings(networks=NetworkChoice(backend="torch", device="cuda:1"), save_dir=tmp_path)
    for one in shares.local_shares(chosen, 4):
        assert one.settings.networks.memory_share == 0.25
        assert shares.VISIBLE not in one.environment
    with pytest.raises(GmosError, match="build them first"):
        shares.local_shares(
            RunSettings(networks=NetworkChoice(backend="tensorrt", build=True), save_dir=tmp_path), 2
        )
