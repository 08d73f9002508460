"""Spans of a run: known intervals give known overlaps, and every thread's work is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.evaluation.profile.document import timeline
from gmos_deploy.evaluation.profile.runs import network_shares, profile_video
from gmos_deploy.evaluation.profile.timeline import (
    TRACKED,
    Span,
    SpanRecorder,
    TracedBackend,
    activities,
    common,
    overlap,
    tracker_times,
    union,
)
from gmos_deploy.evaluation.report import drawings
from gmos_deploy.runtime.arrays import NumpyArrays
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.memory_tracker import make_tracker
from gmos_deploy.runtime.results.outputs import file_results
from gmos_deploy.runtime.tracker import Prompt
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.sides import Side


class FakeClock:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def span(what: str, start: float, end: float, thread: str = "MainThread", **fields: Any) -> Span:
    return Span(what, thread, start, end, **fields)


RUN = [
    span("decode", 0, 2, "prefetch"),
    span("prepare", 1, 4, "transform_0"),
    span("prepare", 2, 5, "transform_1"),
    span("decode", 7, 8, "prefetch"),
    span("wait for frames", 0, 4),
    span("dino", 4, 6, is_network=True),
    span("proposer", 7.5, 9.5, is_network=True),
    span("write", 9.5, 10),
    span("stage propose", 0, 10),
]
"""Decoding and preparing cover 0 to 5 and 7 to 8, networks 4 to 6 and 7.5 to 9.5."""


def test_intervals() -> None:
    """Overlaps count once, touching intervals are one, and what is common is counted once too."""
    assert union([(3, 4), (0, 1), (1, 2), (0.5, 1.5)]) == [(0, 2), (3, 4)]
    assert common([(0, 2), (1, 3)], [(2, 5), (2.5, 6)]) == 1
    assert common([], [(0, 1)]) == 0


def test_the_overlap_of_known_spans() -> None:
    """One second of 4 to 5 and half of 7 to 8 are hidden, of six; threads are busy for 2+1, 3, 3 and 4.5 s."""
    found = overlap(RUN)
    assert (found.wall_s, found.ahead_s, found.waited_s) == (10, 6, 4)
    assert found.hidden_s == pytest.approx(1.5)
    assert found.hidden_share == pytest.approx(0.25)
    assert found.busy_threads == pytest.approx((3 + 3 + 3 + 4.5) / 10)
    assert overlap([]).hidden_share is None


def test_activities_by_kind() -> None:
    """Seconds of several threads add up, those beside networks count once; networks are told apart."""
    found = {entry.what: entry for entry in activities(RUN)}
    assert list(found) == ["decode", "prepare", "wait for frames", "write"]
    prepare = found["prepare"]
    assert (prepare.calls, prepare.seconds, prepare.threads) == (2, 6, 2)
    assert prepare.under_networks_s == pytest.approx(1)
    assert found["write"].under_networks_s is None
    assert [(share.network, share.seconds) for share in network_shares(RUN)] == [("dino", 2), ("proposer", 2)]


def test_tracked_frames_by_objects() -> None:
    """A frame takes from the one before, the first of a stage from the stage's start."""
    clock = FakeClock()
    recorder = SpanRecorder(clock)
    for start, frames in ((5, [(1, 2), (2, 2), (4, 3)]), (3, [(8, 2)])):
        clock.now += start
        with recorder.doing("stage track"):
            for seconds, objects in frames:
                clock.now += seconds
                recorder.tracked(objects)
        clock.now += 1
    found = {entry.objects: entry.frames.samples_s for entry in tracker_times(recorder.spans)}
    assert found == {2: (1, 2, 8), 3: (4,)}
    assert next(span.interval for span in recorder.spans if span.what == TRACKED) == (5, 6)


def test_traced_calls_wait(colour_backend: Callable[..., Any]) -> None:
    """A call ends when the device is done, not when it was given the work; what ran before is not its own."""
    clock = FakeClock()

    class LazyArrays(NumpyArrays):
        def __init__(self, device: Any) -> None:
            self.device = device

        def upload(self, host: Any) -> Any:
            self.device.waiting += 0.5
            return host

        def synchronize(self) -> None:
            clock.now += self.device.waiting
            self.device.waiting = 0.0

    class Lazy:
        model = colour_backend("gmos").model

        description = "lazy"

        def __init__(self) -> None:
            self.waiting = 3.0
            self.arrays = LazyArrays(self)

        def runner(self, network: str) -> Callable[[Any], dict[str, Any]]:
            def run(inputs: Any) -> dict[str, Any]:
                self.waiting += 2.0
                return {}

            return run

    recorder = SpanRecorder(clock)
    traced = TracedBackend(Lazy(), recorder)  # type: ignore[arg-type]
    traced.runner("memory_encoder")({"masks": np.zeros((4, 16, 16)), "f": np.zeros((1, 8))})
    traced.arrays.upload(np.zeros(3))
    call, upload = recorder.spans
    assert (call.what, call.is_network, call.objects, call.seconds) == ("memory_encoder", True, 4, 2.0)
    assert (upload.what, upload.is_network, upload.seconds) == ("upload", False, 0.5)


def test_the_tracker_of_the_side_stays(colour_backend: Callable[..., Any]) -> None:
    """A tracker that runs networks is made on the traced backend; another one is the backend's own."""
    brings = TracedBackend(colour_backend("gmos"), SpanRecorder())
    own = make_tracker(brings, None, frames=3, video_hw=(8, 8))  # type: ignore[arg-type]
    assert type(own).__name__ == "ColourTracker"

    class WithNetworks:
        model, description, arrays = colour_backend("gmos").model, "networks", NumpyArrays()

        def runner(self, network: str) -> Callable[[Any], dict[str, Any]]:
            def run(inputs: Any) -> dict[str, Any]:
                return {"masks": inputs["prompt"], "pointer": inputs["prompt"], "score": np.zeros(1)}

            return run

    traced = TracedBackend(WithNetworks(), SpanRecorder())  # type: ignore[arg-type]
    made: Any = make_tracker(traced, {0: {"f": np.zeros(1)}}, frames=3, video_hw=(8, 8))  # type: ignore[arg-type]
    made.add_prompts(0, [Prompt(object_id=1, mask=np.ones((8, 8), bool))])
    assert "mask_prompt" in {span.what for span in traced._recorder.spans}


def test_a_run_tells_what_its_threads_do(
    colour_backend: Callable[..., Any], colour_video: Callable[..., Path], load_sides: Callable[..., None]
) -> None:
    """Every frame is decoded, prepared, tracked twice and written; stages enclose what happens in them."""
    clip = colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(6)])
    (sequence,) = resolve_inputs([clip], fps=None, stride=1)
    load_sides(lambda _: colour_backend("gmos"))
    run = profile_video(Side(text="torch:fast"), sequence)
    spans = run.spans
    counts = {what: sum(span.what == what for span in spans) for what in ("prepare", "write", TRACKED)}
    assert counts == {"prepare": 6, "write": 6, TRACKED: 12}
    assert sum(span.what == "decode" for span in spans) == 7, "the last look finds the end"
    assert {span.thread for span in spans if span.what == "decode"} == {"prefetch"}
    stages = {span.what: span for span in spans if span.what.startswith("stage ")}
    assert list(stages) == ["stage propose", "stage track MOS-I", "stage track MOS", "stage write"]
    for part in spans:
        if part.what == "proposer":
            assert (
                stages["stage propose"].start_s <= part.start_s <= part.end_s <= stages["stage propose"].end_s
            )
    assert run.tracker[0].objects == 1
    assert len(run.tracker[0].frames.samples_s) == 12
    drawn = drawings.timeline(timeline(run))
    for name in ("decode, thread 1", "prepare, thread 1", "wait for frames", "proposer"):
        assert f">{name}<" in drawn
    assert "the tracker runs by itself" in drawn


def test_a_run_without_a_watch_gives_the_same_files(
    colour_backend: Callable[..., Any], colour_video: Callable[..., Path], tmp_path: Path
) -> None:
    """Watching changes nothing of the results."""
    from gmos_deploy.runtime.results.completion import ResultSet

    clip = colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(5)])
    (sequence,) = resolve_inputs([clip], fps=None, stride=1)
    for name, watch in (("plain", None), ("watched", SpanRecorder())):
        backend = colour_backend("gmos")
        results = ResultSet(
            save_dir=tmp_path / name,
            sequence="clip",
            variant="gmos",
            modes=frozenset({"mask"}),
        )
        run = ClipRun(backend, sequence, watch=watch)
        file_results(iter(run), results, sequence.media, watch=watch)
    files = sorted(path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.png"))
    assert len(files) == 10
    for path in files:
        assert (tmp_path / "plain" / path).read_bytes() == (tmp_path / "watched" / path).read_bytes()
