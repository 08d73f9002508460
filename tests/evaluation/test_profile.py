"""gmos-profile: known durations are found, reports round-trip, and a slower run is a regression."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.evaluation.profile_commands import profile_command
from gmos_deploy.evaluation.profile_report import SCHEMA, read_result
from gmos_deploy.evaluation.profiling import TimedBackend, scaled_flops
from gmos_deploy.runtime.bundle import BundleNetwork, BundleTensor

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


@pytest.fixture
def profile(
    colour_backend: Callable[..., Any],
    colour_video: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Callable[..., tuple[int, str, str]]:
    """Profiles `torch:fast` and `torch:slow`, whose gmos_s sleeps: exit status, stdout, stderr."""
    clip = colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(FRAMES)])

    def call(*options: Any, sides: tuple[str, ...] = ("torch:fast", "torch:slow")) -> tuple[int, str, str]:
        def load(side: Any) -> Any:
            backend = colour_backend("gmos-s")
            return Slow(backend, "gmos_s", SLEEP_S) if side.text == "torch:slow" else backend

        named = [word for side in sides for word in ("--side", side)]
        arguments = [clip, *named, "--iterations", 3, "--warm_up", 1, *options]
        status = guarded(profile_command(load), "gmos-profile", [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_known_sleep_is_found(profile: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """The sleeping network, and no other, takes its time longer, in the latencies and in the run."""
    status, out, err = profile("--report", tmp_path / "report", "--batches", "1,2")
    assert status == 0, err
    assert "gmos_s" in out
    result = read_result(tmp_path / "report" / "result.json")
    medians = {
        (entry["network"], entry["lengths"].get("B"), entry["side"]): entry["p50_ms"]
        for entry in result["networks"]
    }
    for batch in (1, 2):
        assert 1e3 * SLEEP_S < medians["gmos_s", batch, "torch:slow"] < 5e3 * SLEEP_S
        assert medians["gmos_s", batch, "torch:fast"] < 1e3 * SLEEP_S
        assert medians["dino", batch, "torch:slow"] < 1e3 * SLEEP_S
    slow = next(run for run in result["runs"] if run["side"] == "torch:slow")
    assert slow["networks"][0]["network"] == "gmos_s"
    assert slow["frames"] == FRAMES
    assert slow["peak_mib"] > 10
    entry = next(e for e in result["networks"] if e["network"] == "gmos_s" and e["side"] == "torch:slow")
    assert entry["ratio_to_first"]["median"] < 0.5
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
    page = (report / "report.html").read_text()
    assert page.count("timeline") == 2
    assert "src=" not in page
    assert "href=" not in page


def test_baseline(profile: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """A profile against a faster one fails and names what has grown; against a slower one it passes."""
    profile(
        "--report", tmp_path / "base", "--only", "networks", "--networks", "gmos_s", sides=("torch:slow",)
    )
    path = tmp_path / "base" / "result.json"
    options = ("--only", "networks", "--networks", "gmos_s", "--baseline", path, "--threshold", "0.5")
    status, out, _ = profile(*options, sides=("torch:slow",))
    assert status == 0
    assert "0 of 1 times grew by more than 50%" in out
    result = json.loads(path.read_text())
    for entry in result["networks"]:
        entry["p50_ms"] /= 10
    path.write_text(json.dumps(result))
    status, out, _ = profile(*options, sides=("torch:slow",))
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


def test_timed_backend_waits(colour_backend: Callable[..., Any]) -> None:
    """A call ends when the device is done, not when it was given the work."""
    now = 0.0

    class Lazy:
        model = colour_backend("gmos-s").model

        def runner(self, network: str) -> Callable[[Any], dict[str, Any]]:
            return lambda inputs: {}

        def synchronize(self) -> None:
            nonlocal now
            now += 2.0

    timed = TimedBackend(Lazy(), clock=lambda: now)  # type: ignore[arg-type]
    timed.runner("dino")({})
    (share,) = timed.shares()
    assert (share.network, share.calls, share.seconds) == ("dino", 1, 2.0)


def test_flops_are_scaled_or_unknown() -> None:
    """Proportional to the batch; unknown at another grid, and where objects share work."""

    def network(*axes: tuple[str | int, ...], at: Mapping[str, int]) -> BundleNetwork:
        tensors = tuple(
            BundleTensor(name=f"t{index}", axes=shape, dtype="float32", values="")
            for index, shape in enumerate(axes)
        )
        return BundleNetwork(
            name="dino",
            precision="fp32",
            inputs=tensors,
            outputs=(),
            graphs={},
            profiles=(),
            parameters=0,
            flops=800.0,
            flops_at=at,
            gate={},
        )

    batched = network(("B", "h", "w"), at={"B": 8, "h": 7, "w": 9})
    assert scaled_flops(batched, {"B": 2, "h": 7, "w": 9}) == 200
    assert scaled_flops(batched, {"B": 2, "h": 8, "w": 9}) is None
    shared = network((1, 64), ("O", 64), at={"O": 4})
    assert scaled_flops(shared, {"O": 4}) == 800
    assert scaled_flops(shared, {"O": 1}) is None
