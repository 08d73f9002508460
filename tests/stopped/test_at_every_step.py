"""Nothing finished is lost: commands stopped at every step that they take in the file system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

SCRIPT = Path(__file__).with_name("at_every_step.py")

WHICH = {
    "run": "",
    "first-run": ":12",
    "batch": ":30",
    "export": "",
    # What comes before is the same.
    "export-in-two-steps": ":-14",
    "build-engines": "",
    "calibrate": "",
    "report": "",
    "live": ":16",
}
"""Which steps: all, some, or the last ones."""

REAL = ("real-run", "real-export", "real-build-engines", "real-calibrate")


def examined(folder: Path, *scenarios: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, *scenarios], capture_output=True, text=True, check=False
    )
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert len(found) == len(scenarios), done.stderr[-3000:]
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of all of them, by scenario; one process, as its imports cost more than an attempt."""
    pytest.importorskip("torch")
    return examined(tmp_path_factory.mktemp("stopped"), *(name + part for name, part in WHICH.items()))


@pytest.mark.parametrize("scenario", WHICH)
def test_old_or_new_is_whole_at_every_step(found: dict[str, dict[str, Any]], scenario: str) -> None:
    """After SIGKILL, and the next call finishes and leaves nothing; after signals that are answered nothing is left."""
    result = found[scenario]
    assert result["steps"] > 15
    assert result["tried"] >= (result["steps"] if not WHICH[scenario] else 20)
    assert result["wrong"] == {}


@pytest.mark.published
@pytest.mark.parametrize("scenario", REAL)
def test_with_real_networks(tmp_path: Path, scenario: str) -> None:
    """At ten steps: nano and tiny networks, minutes."""
    if scenario == "real-build-engines":
        pytest.importorskip("tensorrt_rtx")
    result = examined(tmp_path, f"{scenario}:10")[scenario]
    assert (result["wrong"], result["tried"]) == ({}, 18)
