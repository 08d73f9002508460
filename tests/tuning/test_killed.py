"""`gmos-export tune` in a process that is killed with SIGKILL, and goes on in another one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gmos_deploy.runtime.bundle.recipe import read_recipe

CHILD = Path(__file__).with_name("killed_tune.py")
LIMIT_S = 120


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_search_that_was_killed_goes_on(colour_video: Callable[..., Path], tmp_path: Path) -> None:
    """After the exact run, and again among the trials: the recipe and the trials of one that was not, none twice."""
    street, yard = (
        colour_video(name, [[(1, 2 + 2 * min(i, stop), 8, 16, 24)] for i in range(24)])
        for name, stop in (("street", 17), ("yard", 20))
    )

    def start(runs: int, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, str(CHILD), str(runs), "tune", str(street), "--held_out", str(yard)),
                *("--backend", "colours", "--preset", "tiny", "--variant", "gmos-s", "--stride", "1"),
                *("--target_masks", "0.7", "--rounds", "1", "--out", str(tmp_path / f"{name}.json")),
                *("--report", str(tmp_path / name)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finished(name: str) -> int:
        """Runs that it took to the end."""
        process = start(-1, name)
        out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, err
        return out.splitlines().count("run")

    whole, killed = finished("whole"), 0
    for runs in (1, 3):
        with start(runs, "killed") as process:
            assert process.stdout is not None
            for line in process.stdout:
                killed += line == "run\n"
                if line == "waiting\n":
                    break
            process.send_signal(signal.SIGKILL)
            assert process.wait(LIMIT_S) == -signal.SIGKILL
        assert not (tmp_path / "killed.json").exists()
    assert killed == 4
    assert killed + finished("killed") == whole, "nothing is measured twice"
    one, other = (replace(read_recipe(tmp_path / f"{name}.json"), made="") for name in ("whole", "killed"))
    assert one == other
    trials = [
        [
            json.loads(line)["levers"]
            for line in (tmp_path / name / "observations.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "killed")
    ]
    assert trials[0] == trials[1]
    assert not list(tmp_path.glob(".*unfinished"))
