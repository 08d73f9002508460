"""On Ray: two nodes of this machine, a worker killed, a node removed, a poison clip; and rows of Ray Data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.fleet.ray_workers import RayChoice, is_address
from gmos_deploy.fleet.segmenter import Segmenter, rows_of, settings_of

from .test_workers import BASE, SCRIPT, results, solid

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

CLUSTER = Path(__file__).with_name("ray_cluster_run.py")
LIMIT_S = 240.0
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}


def call(script: Path, folder: Path, *given: Any) -> tuple[int, dict[str, Any], str]:
    command = [str(one) for one in (sys.executable, script, folder, *given, *BASE, "--json")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=LIMIT_S, env=ENVIRONMENT
    )
    start = done.stdout.find("{\n")
    assert start >= 0, done.stderr[-4000:]
    return done.returncode, json.JSONDecoder().raw_decode(done.stdout[start:])[0], done.stderr


def test_twelve_clips_on_two_nodes(clips: Callable[..., list[Path]], tmp_path: Path) -> None:
    """A worker is killed, a node removed, a clip is poison: the others as the plain run has them, byte for byte."""
    pytest.importorskip("ray")
    good = clips(*(f"clip{k}" for k in range(9)))
    once = solid(tmp_path / "videos/once", (0, 0, 0))
    slow = solid(tmp_path / "videos/slow", (0, 0, 255))
    poison = solid(tmp_path / "videos/poison", (255, 255, 255))
    videos = [good[0], once, *good[1:4], slow, *good[4:7], poison, *good[7:]]
    status, found, log = call(
        CLUSTER,
        tmp_path,
        *videos,
        *("--save_dir", tmp_path / "out", "--ray", "auto", "--gpus_per_worker", 0.5),
    )
    assert status == 3, log[-4000:]
    assert (tmp_path / "removed").exists()
    by_name = {one["name"]: one for one in found["sequences"]}
    assert {name for name, one in by_name.items() if one["status"] == "done"} == {
        *(path.name for path in good),
        "once",
        "slow",
    }
    assert by_name["poison"]["error"].startswith("it killed 3 workers (")
    # A half of a GPU, and one CPU.
    assert set((tmp_path / "shares").read_text().split("\n")) == {"0.5 1", ""}
    status, _, log = call(SCRIPT, tmp_path, *good, once, slow, "--save_dir", tmp_path / "plain")
    assert status == 0, log
    assert results(tmp_path / "out") == results(tmp_path / "plain")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("auto", True),
        ("head:6379", True),
        ("10.0.0.1:6379", True),
        ("[::1]:6379", True),
        ("ray://head:10001", True),
        ("clip.mp4", False),
        ("clips", False),
    ],
)
def test_what_follows_ray_is_an_address_or_an_input(text: str, address: bool) -> None:
    """`gmos-run --ray clips` starts Ray on this machine."""
    assert is_address(text) == address


@pytest.mark.parametrize(
    "wrong", [{"cpus": 0}, {"gpus": -1}, {"gpus": 1.5}, {"cpus": float("nan")}, {"gpus": float("nan")}]
)
def test_parts_that_cannot_be_had(wrong: dict[str, float]) -> None:
    """Ray would wait for ever."""
    with pytest.raises(GmosError, match=r"_per_worker .*: expected"):
        RayChoice(**wrong)


@pytest.fixture
def segmenter(register: Callable[..., None], colour_backend: Callable[..., Any], tmp_path: Path) -> Segmenter:
    register("colours", lambda _: colour_backend())
    return Segmenter(
        save_dir=tmp_path / "out",
        backend="colours",
        preset="tiny",
        variant="gmos",
        stride=1,
        save_mode="mask",
    )


def test_batches_of_paths_in_and_records_out(
    segmenter: Segmenter, clips: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """As Ray Data hands them over; a second time they are skipped."""
    rows = rows_of([*clips("a", "b"), tmp_path / "gone.mp4"])
    assert [row["name"] for row in rows] == ["a", "b", "gone"]
    batch = {name: np.array([row[name] for row in rows]) for name in ("path", "name")}
    answer = segmenter(batch)
    assert answer["status"] == ["done", "done", "failed"]
    assert answer["frames"] == [3, 3, 0]
    assert answer["error"][:2] == ["", ""]
    assert "does not exist" in answer["error"][2]
    assert json.loads(answer["record"][0])["made_from"]["clips"][0]["name"] == "a"
    assert segmenter({"path": batch["path"][:1]})["status"] == ["skipped"]
    with pytest.raises(GmosError, match="columns item: expected path"):
        segmenter({"item": ["a"]})


def test_options_of_a_segmenter_are_those_of_gmos_run(tmp_path: Path) -> None:
    """By name, budgets in MiB; what does not exist is refused."""
    settings = settings_of(save_dir=tmp_path, host_budget=3, batch_size=2, bundle="b", fps=8)
    assert (settings.options.host_budget, settings.options.batch_size) == (3 << 20, 2)
    assert (settings.networks.bundle, settings.fps, settings.existing) == (Path("b"), 8, "resume")
    with pytest.raises(GmosError, match="colour: no option of a run"):
        settings_of(save_dir=tmp_path, colour=1)


def test_a_place_that_a_worker_does_not_see(segmenter: Segmenter, tmp_path: Path, monkeypatch: Any) -> None:
    """The marker that the driver wrote is looked for, for a while."""
    monkeypatch.setattr("gmos_deploy.fleet.segmenter.SEEN_S", 0.0)
    assert f"does not see {tmp_path / 'marker'}" in segmenter.ready(str(tmp_path / "marker"))
    (tmp_path / "marker").touch()
    assert segmenter.ready(str(tmp_path / "marker")) == ""


def test_rows_of_ray_data(clips: Callable[..., list[Path]], tmp_path: Path) -> None:
    """As docs/fleet.md shows it: paths in, records out, and half a GPU."""
    pytest.importorskip("ray.data")
    script = Path(__file__).with_name("ray_data_run.py")
    videos = [*clips("a", "b"), tmp_path / "gone.mp4"]
    command = [str(one) for one in (sys.executable, script, tmp_path, tmp_path / "out", *videos)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=LIMIT_S, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-4000:]
    records = {one["name"]: one for one in json.loads(done.stdout.splitlines()[-1])}
    assert {name: one["status"] for name, one in records.items()} == {
        "a": "done",
        "b": "done",
        "gone": "failed",
    }
    assert records["a"]["frames"] == 3
    assert "does not exist" in records["gone"]["error"]
    assert (tmp_path / "shares").read_text().splitlines() == ["0.5 1"]
