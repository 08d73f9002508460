"""Values that are not finite: where they come from, and what becomes of the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.results.completion import ResultSet, finished, read_record
from gmos_deploy.runtime.results.outputs import file_results
from gmos_deploy.runtime.tracker import TrackerStep
from gmos_deploy.runtime.video.inputs import resolve_inputs

FRAMES = 12
FROM = 5
"""Frame from which a network is wrong."""


class Wrong:
    """A backend one of whose networks gives a NaN from a frame on, in one of its outputs."""

    def __init__(self, backend: Any, network: str, output: str, value: float = np.nan) -> None:
        self._backend = backend
        self._wrong = (network, output, value)
        self._seen = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def runner(self, network: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        run, (wrong, output, value) = self._backend.runner(network), self._wrong

        def call(inputs: Mapping[str, Any]) -> dict[str, Any]:
            out = dict(run(inputs))
            if network == wrong:
                given = out[output] = np.array(out[output], np.float32)
                for row in given:
                    if self._seen >= FROM:
                        row.flat[0] = value
                    self._seen += 1
            return out

        return call

    def tracker(self, *args: Any, **kwargs: Any) -> Any:
        made = self._backend.tracker(*args, **kwargs)
        if self._wrong[0] == "tracker":
            propagate = made.propagate

            def wrong(start: int, **how: Any) -> Iterator[TrackerStep]:
                for step in propagate(start, **how):
                    yield replace(step, ious=step.ious * np.float32(np.nan)) if step.frame >= FROM else step

            made.propagate = wrong
        return made


@pytest.fixture
def clip(colour_video: Callable[..., Path]) -> Path:
    return colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(FRAMES)])


def clip_run(backend: Any, clip: Path, **options: Any) -> ClipRun:
    model = backend.model
    (sequence,) = resolve_inputs(
        [clip], fps=None, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
    )
    return ClipRun(backend, sequence, RunOptions(batch_size=4, **options))


pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
"""Of the backend here, when it draws NaN."""

CASES = [
    ("gmos", "proposer", "motion_logits", "proposer", "motion logits"),
    ("gmos", "proposer", "ious", "proposer", "IoUs"),
    ("gmos", "proposer", "mask_logits", "proposer", "mask logits"),
    ("gmos-s", "gmos_s", "foreground_logits", "gmos_s", "mask logits"),
    ("gmos-s", "gmos_s", "ious", "gmos_s", "IoUs"),
    ("gmos-s", "gmos_s", "confidences", "gmos_s", "confidences"),
    (
        "gmos",
        "tracker",
        "",
        "memory_attention, mask_decoder or memory_encoder",
        "object IoUs, scores or masks",
    ),
]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("variant", "network", "output", "name", "seen"), CASES)
def test_a_run_ends_with_the_frame_and_the_network(
    variant: str,
    network: str,
    output: str,
    name: str,
    seen: str,
    value: float,
    colour_backend: Any,
    clip: Path,
) -> None:
    """And says how to go on."""
    backend = Wrong(colour_backend(variant), network, output, value)
    with pytest.raises(
        GmosError,
        match=rf"clip: from frame {FROM} on, {name} gives .*not finite \(seen in the {seen}\); .*--allow",
    ):
        list(clip_run(backend, clip))


class Spreading(Wrong):
    """An encoder's NaN reaches the head's answers, as in real networks."""

    def runner(self, network: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        run = super().runner(network)

        def call(inputs: Mapping[str, Any]) -> dict[str, Any]:
            encoded: Sequence[Any] = [inputs[name] for name in ("geometry", "f") if name in inputs]
            spread = sum(np.asarray(one, np.float32).reshape(len(one), -1).sum(1) * 0 for one in encoded)
            out = run({name: np.nan_to_num(value) for name, value in inputs.items()})
            if network in ("proposer", "gmos_s"):
                out = {
                    name: value + spread.reshape(-1, *[1] * (value.ndim - 1)) for name, value in out.items()
                }
            return out

        return call


@pytest.mark.parametrize("variant", ["gmos", "gmos-s"])
@pytest.mark.parametrize(("network", "output"), [("pi3_decoder", "geometry"), ("sam2_encoder", "f")])
def test_the_encoder_that_is_wrong_is_named(
    variant: str, network: str, output: str, colour_backend: Any, clip: Path
) -> None:
    """And not the head, which only passes it on."""
    backend = Spreading(colour_backend(variant), network, output)
    with pytest.raises(
        GmosError, match=rf"clip: from frame {FROM} on, (dino or )?{network} gives .*not finite"
    ):
        list(clip_run(backend, clip))


@pytest.mark.parametrize(("variant", "network", "output", "name", "seen"), CASES)
def test_where_it_is_allowed_the_frames_are_counted(
    variant: str,
    network: str,
    output: str,
    name: str,
    seen: str,
    colour_backend: Any,
    clip: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the summary, in a warning and in the results' record, which is finished like any other."""
    run = clip_run(Wrong(colour_backend(variant), network, output), clip, allow_nonfinite=True)
    (sequence,) = resolve_inputs([clip], fps=None, stride=1, pi3_area_px=56 * 56, patch_px=14)
    results = ResultSet(
        save_dir=tmp_path / "out",
        sequence="clip",
        variant=run.variant,
        modes=frozenset({"mask"}),
        not_finite=run.summary.not_finite,
    )
    file_results(iter(run), results, sequence.media)
    counted = run.summary.not_finite[name]
    assert counted >= FRAMES - FROM
    assert caplog.text.count(f"not finite (seen in the {seen}); the run goes on") == 1
    record = read_record(results)
    assert record is not None
    assert record.not_finite == {name: counted}
    assert json.loads(results.record_path.read_text())["not_finite"] == {name: counted}
    assert finished(results)


def test_records_of_ordinary_runs_say_nothing_of_it(colour_backend: Any, clip: Path, tmp_path: Path) -> None:
    """They stay as they were."""
    run = clip_run(colour_backend("gmos"), clip)
    (sequence,) = resolve_inputs([clip], fps=None, stride=1, pi3_area_px=56 * 56, patch_px=14)
    results = ResultSet(save_dir=tmp_path, sequence="clip", variant="gmos", modes=frozenset({"mask"}))
    file_results(iter(run), results, sequence.media)
    assert run.summary.not_finite == {}
    assert "not_finite" not in json.loads(results.record_path.read_text())
