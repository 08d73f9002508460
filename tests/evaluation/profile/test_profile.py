"""gmos-profile: known durations are found, reports round-trip, and a slower run is a regression."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.profile import profile_command
from gmos_deploy.evaluation.profile import commands as profile_commands
from gmos_deploy.evaluation.profile.report import SCHEMA, read_result
from gmos_deploy.runtime.contract import network_specs

FRAMES = 8
SLEEP_S = 0.02


class Slow:
    """A backend in which one network takes a known time longer."""

    def __init__(self, backend: Any, network: str, seconds: float) -> None:
        self._backend, self._network, self._seconds = backend, network, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def runner(self, network: str) -> Callable[[Mapping[str, Any]], Any]:
        run = self._backend.runner(network)

        def call(inputs: Mapping[str, Any]) -> Any:
            time.sleep(self._seconds)
            return run(inputs)

        return call if network == self._network else run


class WithTracker:
    """A backend with the tracker's networks too; what they answer is nought."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def runner(self, network: Any) -> Callable[[Mapping[str, Any]], Any]:
        if hasattr(self._backend, f"_{network}"):
            found: Callable[[Mapping[str, Any]], Any] = self._backend.runner(network)
            return found
        spec = network_specs(self._backend.model)[network]

        def call(inputs: Mapping[str, Any]) -> dict[str, Any]:
            lengths = dict(zip("HW", inputs.get("video_hw", (0, 0)), strict=True))
            for tensor in spec.inputs:
                lengths |= {
                    axis: size
                    for axis, size in zip(tensor.axes, inputs[tensor.name].shape, strict=True)
                    if isinstance(axis, str)
                }
            return {
                tensor.name: np.zeros(
                    [lengths[axis] if isinstance(axis, str) else axis for axis in tensor.axes],
                    "uint8" if tensor.dtype == "uint8" else "float32",
                )
                for tensor in spec.outputs
            }

        return call


@pytest.fixture
def profile(
    colour_backend: Callable[..., Any],
    colour_video: Callable[..., Path],
    load_sides: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Callable[..., tuple[int, str, str]]:
    """Profiles `torch:fast` and `torch:slow`, whose gmos_s sleeps: exit status, stdout, stderr."""
    clip = colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(FRAMES)])

    def call(*options: Any, sides: tuple[str, ...] = ("torch:fast", "torch:slow")) -> tuple[int, str, str]:
        def load(side: Any) -> Any:
            if side.text == "torch:gmos":
                return WithTracker(colour_backend("gmos"))
            backend = colour_backend("gmos-s")
            return Slow(backend, "gmos_s", SLEEP_S) if side.text == "torch:slow" else backend

        named = [word for side in sides for word in ("--side", side)]
        arguments = [clip, *named, "--iterations", 3, "--warm_up", 1, *options]
        load_sides(load)
        status = guarded(profile_command, "gmos-profile", [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_known_sleep_is_found(profile: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """The sleeping network, and no other, takes its time longer, in the latencies and in the run."""
    status, out, err = profile("--report", tmp_path / "report", "--batches", "1,2")
    assert status == 0, err
    assert "gmos_s" in out
    result = read_result(tmp_path / "report" / "result.json")
    # The least of a few, and the least ratio: a busy machine only makes the others longer.
    least = {
        (entry["network"], entry["lengths"].get("B"), entry["side"]): entry["min_ms"]
        for entry in result["networks"]
    }
    for batch in (1, 2):
        assert least["gmos_s", batch, "torch:slow"] > 1e3 * SLEEP_S
        assert least["gmos_s", batch, "torch:fast"] < 1e3 * SLEEP_S
        assert least["dino", batch, "torch:slow"] < 1e3 * SLEEP_S
    slow = next(run for run in result["runs"] if run["side"] == "torch:slow")
    share = next(share for share in slow["networks"] if share["network"] == "gmos_s")
    assert share["seconds"] > share["calls"] * SLEEP_S
    assert slow["frames"] == FRAMES
    assert slow["peak_mib"] > 10
    assert slow["device_mib"] is None
    assert slow["first_frames_s"] > SLEEP_S
    assert result["start_up_s"] > 0
    entry = next(e for e in result["networks"] if e["network"] == "gmos_s" and e["side"] == "torch:slow")
    assert entry["ratio_to_first"]["least"] < 0.5
    assert len(entry["samples_ms"]) == 3


def test_report_files(profile: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """JSON with its schema, a line per sample and call, and a page that needs no network."""
    report = tmp_path / "deep" / "report"
    profile("--report", report)
    result = json.loads((report / "result.json").read_text())
    assert result["schema"] == SCHEMA
    assert result["matrix_gflops"] > 0
    assert result["sides"] == ["torch:fast", "torch:slow"]
    lines = [json.loads(line) for line in (report / "observations.jsonl").read_text().splitlines()]
    samples = [line for line in lines if line["kind"] == "latency"]
    assert len(samples) == sum(len(entry["samples_ms"]) for entry in result["networks"])
    assert {line["network"] for line in lines if line["kind"] == "call"} >= {"dino", "gmos_s"}
    doing = {line["what"]: line["thread"] for line in lines if line["kind"] == "span"}
    assert doing["decode"] == "prefetch"
    assert doing["prepare"].startswith("transform")
    assert doing["write"] == "MainThread"
    page = (report / "report.html").read_text()
    assert page.count('class="plot timeline"') == 2
    assert "src=" not in page
    assert "href=" not in page


def test_baseline(profile: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """A profile against a faster one fails and names what has grown; against a slower one it passes."""
    profile(
        "--report", tmp_path / "base", "--only", "networks", "--networks", "gmos_s", sides=("torch:slow",)
    )
    path = tmp_path / "base" / "result.json"
    options = ("--only", "networks", "--networks", "gmos_s", "--baseline", path, "--threshold", "0.5")

    def against(before_ms: float) -> tuple[int, str]:
        result = json.loads(path.read_text())
        for entry in result["networks"]:
            entry["p50_ms"] = before_ms
        path.write_text(json.dumps(result))
        status, out, _ = profile(*options, sides=("torch:slow",))
        return status, out

    status, out = against(1e6 * SLEEP_S)
    assert status == 0
    assert "0 of 1 times grew by more than 50%" in out
    status, out = against(1e2 * SLEEP_S)
    assert status == 1
    assert "slower: torch:slow: gmos_s" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--networks", "unet"], "--networks unet: expected some of sam2_resize"),
        (["--batches", "1,x"], "--batches 1,x: expected whole numbers from 1"),
        (["--batches", "0"], "--batches 0: expected whole numbers from 1"),
        (["--side", "torch:fast"], "the same side twice"),
        (["--baseline", "{tmp}/none.json"], "none.json cannot be read"),
        (["--baseline", "{tmp}/other.json"], "has schema None, expected 'gmos-profile/1'"),
        (["--side", "masks:{tmp}"], "masks take no time"),
        (["--report", "{tmp}/other.json"], "other.json is a file; expected a directory"),
    ],
)
def test_bad_input(
    profile: Callable[..., tuple[int, str, str]], tmp_path: Path, options: list[str], message: str
) -> None:
    """One line and status 2."""
    (tmp_path / "other.json").write_text("{}")
    status, _, err = profile(*(option.format(tmp=tmp_path) for option in options))
    assert status == 2
    assert len(err.splitlines()) == 1
    assert message in err


def test_the_result_is_read_as_it_was_written(
    profile: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value of the report comes back from its file, and has the documented fields."""
    made: list[Any] = []
    real = profile_commands.result_json

    def keep(report: Any) -> Any:
        made.append(real(report))
        return made[-1]

    monkeypatch.setattr(profile_commands, "result_json", keep)
    profile("--report", tmp_path, sides=("torch:gmos", "torch:fast"))
    result = read_result(tmp_path / "result.json")
    assert result == made[0]
    text = (Path(profile_commands.__file__).parents[2] / "docs" / "profile.md").read_text()
    for field in (*result, *result["networks"][0], *result["runs"][0], *result["machine"]):
        assert f"`{field}`" in text, f"{field} is not documented"


def test_sides_of_both_variants(profile: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Each variant has its frames per second; only networks of one model are held against each other."""
    sides = ("torch:gmos", "torch:fast", "torch:slow")
    status, _, err = profile("--report", tmp_path, sides=sides)
    assert status == 0, err
    result = read_result(tmp_path / "result.json")
    assert [(run["side"], run["variant"]) for run in result["runs"]] == [
        ("torch:gmos", "gmos"),
        ("torch:fast", "gmos-s"),
        ("torch:slow", "gmos-s"),
    ]
    first = {(entry["network"], entry["side"]): entry["first"] for entry in result["networks"]}
    assert first["dino", "torch:gmos"] == "torch:gmos"
    assert first["dino", "torch:slow"] == "torch:fast"
    assert ("proposer", "torch:slow") not in first
    compared = {entry["side"] for entry in result["networks"] if entry["ratio_to_first"] is not None}
    assert compared == {"torch:slow"}
    run = result["runs"][0]
    assert sum(entry["frames"] for entry in run["tracker"]) >= FRAMES
    assert {entry["objects"] for entry in run["tracker"]} == {1}


def test_a_network_of_one_variant_only(profile: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """--networks takes what any of the sides has."""
    options = ("--report", tmp_path, "--only", "networks", "--networks", "gmos_s,proposer")
    status, _, err = profile(*options, sides=("torch:gmos", "torch:fast"))
    assert status == 0, err
    result = read_result(tmp_path / "result.json")
    assert [(entry["network"], entry["side"]) for entry in result["networks"]] == [
        ("proposer", "torch:gmos"),
        ("gmos_s", "torch:fast"),
    ]


def test_sides_without_layer_times_are_named(profile: Callable[..., tuple[int, str, str]]) -> None:
    """A backend that does not tell them is no error."""
    status, out, _ = profile("--layers", "--only", "networks", "--networks", "dino")
    assert status == 0
    assert "no layer times from torch:fast, torch:slow" in out
