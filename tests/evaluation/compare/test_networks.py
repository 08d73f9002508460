"""gmos-parity networks: what is recorded, and planted differences found in the network they are in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.parity import networks_command
from gmos_deploy.evaluation.compare.network_parity import compare_calls, output_parities
from gmos_deploy.evaluation.compare.recording import Call, Recording, record
from gmos_deploy.runtime.arrays import NumpyArrays
from gmos_deploy.runtime.video.inputs import resolve_inputs

FRAMES = 8


@pytest.fixture
def clip(colour_video: Callable[..., Path]) -> Path:
    """A directory of frames in which one box moves."""
    return colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(FRAMES)])


@pytest.fixture
def compare(
    colour_backend: Callable[..., Any],
    plant_change: Callable[..., Any],
    clip: Path,
    load_sides: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on the colour backend and one with a planted change: exit status, stdout, stderr."""

    def call(
        *options: Any, plant: tuple[str, str, Callable[[Any], Any]] | None = None
    ) -> tuple[int, str, str]:
        def load(side: Any) -> Any:
            backend = colour_backend("gmos-s")
            return backend if plant is None or side.text == "torch:a" else plant_change(backend, *plant)

        arguments = [clip, "--a", "torch:a", "--b", "torch:b", *options]
        load_sides(load)
        status = guarded(networks_command, "gmos-parity", [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_same(compare: Callable[..., tuple[int, str, str]]) -> None:
    """A backend agrees with itself in every network that the run calls."""
    status, out, err = compare()
    assert (status, err) == (0, "")
    assert "PASS (fp32)" in out
    for network in ("sam2_resize", "dino", "pi3_decoder", "sam2_encoder", "gmos_s", "foreground_map"):
        assert network in out


@pytest.mark.parametrize(
    ("plant", "line"),
    [
        (("pi3_decoder", "geometry", lambda values: values * 1.01), "pi3_decoder, output geometry, call"),
        (("dino", "tokens", lambda values: values + 0.5), "dino, output tokens, call"),
        (("foreground_map", "mask", lambda values: 1 - values), "share of changed values 1 (limit 0.0002)"),
        (
            ("gmos_s", "ious", lambda values: np.full_like(values, np.nan)),
            "values that are not finite: 2, the trusted side 0",
        ),
    ],
)
def test_planted_difference(
    compare: Callable[..., tuple[int, str, str]], tmp_path: Path, plant: Any, line: str
) -> None:
    """A changed network is found, named and located, and no other is blamed: all get A's inputs."""
    report = tmp_path / "report"
    status, _, err = compare("--report", report, "--calls", 8, plant=plant)
    assert status == 1, err
    result = json.loads((report / "result.json").read_text())
    (failure,) = result["failures"]
    assert failure.startswith(plant[0])
    assert line in failure
    page = (report / "report.html").read_text()
    assert plant[0] in page
    assert "FAIL" in page
    assert len((report / "observations.jsonl").read_text().splitlines()) == len(result["outputs"])


class Answers:
    """A backend that answers every call with the same outputs."""

    arrays = NumpyArrays()

    def __init__(self, outputs: dict[str, Any]) -> None:
        self._outputs = outputs

    def runner(self, network: str) -> Callable[[Any], dict[str, Any]]:
        return lambda inputs: self._outputs


def test_order_of_queries() -> None:
    """Queries that come in another order, with all that belongs to them, are no difference."""
    rng = np.random.default_rng(0)
    outputs = {
        "mask_logits": rng.normal(size=(2, 5, 8, 8)),
        "motion_logits": rng.normal(size=(2, 5)),
        "ious": rng.random((2, 5)),
    }
    call = Call(index=0, inputs={"f": np.zeros(3, np.float32)}, outputs=outputs)
    turned = {name: values[:, ::-1] for name, values in outputs.items()}
    for answer, same in ((turned, True), ({**outputs, "ious": turned["ious"]}, False)):
        backend: Any = Answers(answer)
        found = output_parities(compare_calls("proposer", [call], backend, {"f": "float32"}))
        assert (max(output.worst.relative for output in found) == 0) == same


def test_chosen_networks(compare: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Only the networks named are compared."""
    compare("--networks", "dino,gmos_s", "--report", tmp_path)
    outputs = json.loads((tmp_path / "result.json").read_text())["outputs"]
    assert {entry["network"] for entry in outputs} == {"dino", "gmos_s"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--networks", "dino,unet"], "--networks unet: expected some of sam2_resize, dino"),
        (["--bundle", "x"], "expected either --bundle DIR or --b SPEC"),
    ],
)
def test_bad_options(compare: Callable[..., tuple[int, str, str]], options: list[str], message: str) -> None:
    """One line and status 2."""
    status, _, err = compare(*options)
    assert status == 2
    assert message in err


def test_sample_is_bounded_and_reproducible(colour_backend: Callable[..., Any], clip: Path) -> None:
    """At most so many calls of each network are kept, from the whole video, the same ones every time."""
    (sequence,) = resolve_inputs([clip], fps=None, stride=1)

    def sample() -> Recording:
        return record(colour_backend("gmos-s"), sequence, frames=FRAMES, limit=3, batch_size=1)

    first, second = sample(), sample()
    assert first.seen("gmos_s") == FRAMES
    indices = [call.index for call in first.calls("gmos_s")]
    assert len(set(indices)) == 3
    assert indices == [call.index for call in second.calls("gmos_s")]
    assert max(indices) >= 3, "the sample is not the first calls"
    for ours, theirs in zip(first.calls("dino"), second.calls("dino"), strict=True):
        np.testing.assert_array_equal(ours.inputs["frames"], theirs.inputs["frames"])


def test_frames_are_limited(colour_backend: Callable[..., Any], clip: Path) -> None:
    """Only the first frames run."""
    (sequence,) = resolve_inputs([clip], fps=None, stride=1)
    recorder = record(colour_backend("gmos-s"), sequence, frames=6, limit=99, batch_size=1)
    assert recorder.seen("gmos_s") == 6
