"""Commands that need the answers on several videos together go on after a bad one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gmos_deploy.calibration.sampling import record_calls
from gmos_deploy.calibration.sampling.record_calls import SampleLimits, sample_videos
from gmos_deploy.cli import guarded
from gmos_deploy.commands.parity import parity_command
from gmos_deploy.errors import GmosError, MachineError
from gmos_deploy.fleet.several import Several

Clips = Callable[..., list[Path]]
SIZES = {"pi3_area_px": 56 * 56, "patch_px": 14}


def bad(message: str) -> None:
    raise GmosError(message)


def test_those_that_are_left(clips: Clips, tmp_path: Path) -> None:
    """A video that cannot be read, and one that fails later; the status says so."""
    several = Several([*clips("a", "b"), tmp_path / "gone.mp4"], fps=None, stride=1)
    found = several.resolve(**SIZES)
    assert [one.name for one in found] == ["a", "b"]
    assert several.attempt("a", lambda: bad("broken")) is None
    assert several.attempt("a", lambda: "never called") is None
    assert several.attempt("b", lambda: "answer") == "answer"
    assert [one.name for one in several.left(found)] == ["b"]
    assert set(several.failed) == {"gone", "a"}
    assert (several.status(), several.status(1)) == (3, 1)


def test_alone_all_of_them_and_the_machine_end_it(clips: Clips, tmp_path: Path) -> None:
    """There is nothing to go on with."""
    a, b = clips("a", "b")
    with pytest.raises(GmosError, match=r"gone\.mp4 does not exist"):
        Several([tmp_path / "gone.mp4"], fps=None, stride=1).resolve(**SIZES)
    several = Several([a, b], fps=None, stride=1)
    several.attempt("a", lambda: bad("broken"))
    with pytest.raises(GmosError, match="none of the 2 videos can be used; the last one, b: broken"):
        several.attempt("b", lambda: bad("broken"))

    def full() -> None:
        raise MachineError("the disk is full")

    with pytest.raises(MachineError, match="the disk is full"):
        Several([a, b], fps=None, stride=1).attempt("a", full)


def test_parity_leaves_a_bad_video_out(
    clips: Clips,
    register: Callable[..., None],
    colour_backend: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The others are compared; the report names it."""
    register("colours", lambda _: colour_backend())
    a, b = clips("a", "b")
    given = ["video", a, tmp_path / "gone.mp4", b, "--stride", 1, "--report", tmp_path / "report"]
    given += ["--a", "colours:preset=tiny,variant=gmos", "--b", "colours:preset=tiny,variant=gmos"]
    status = guarded(parity_command, "gmos-parity", [str(one) for one in given])
    said = capsys.readouterr()
    assert status == 3, said.err
    result = json.loads((tmp_path / "report/result.json").read_text())
    assert result["passed"]
    assert list(result["failed_videos"]) == ["gone"]
    assert {"a", "b"} <= set(said.out.split())


def test_sampling_goes_on(clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the list's failures the first one ends it."""
    several = Several(clips("a", "b"), fps=None, stride=1)
    sequences = several.resolve(**SIZES)
    bundle: Any = SimpleNamespace(identity="bundle")
    store: Any = SimpleNamespace(finished=lambda *_: None)

    def sampled(*given: Any, **_: Any) -> dict[str, Any]:
        if given[2].name == "a":
            raise GmosError("broken")
        return {"frames": 3}

    monkeypatch.setattr(record_calls, "_sampled", sampled)
    limits = SampleLimits(max_samples=4, max_bytes=1000, frames=None, seed=0)
    backend: Any = None
    found = sample_videos(
        backend, bundle, sequences, store, networks=("dino",), limits=limits, several=several
    )
    assert found == {"b": {"frames": 3}}
    assert several.failed == {"a": "broken"}
    with pytest.raises(GmosError, match="broken"):
        sample_videos(backend, bundle, sequences, store, networks=("dino",), limits=limits)
