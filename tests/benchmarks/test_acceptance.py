"""The acceptance run: its steps share the time, go on after a failure, and end in one report."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.child_process import ChildRun
from gmos_deploy.evaluation.doctor.finding import Finding
from gmos_deploy.evaluation.report.html_page import page
from gmos_deploy.evaluation.summary.saved import SavedAcceptance, read_saved
from gmos_deploy.interruption import Interrupted

Module = Callable[[str], ModuleType]


@pytest.fixture
def acceptance(module: Module) -> ModuleType:
    return module("acceptance")


@pytest.fixture
def record(module: Module) -> ModuleType:
    return module("acceptance_steps.record")


@pytest.fixture
def context(record: ModuleType, tmp_path: Path) -> Any:
    """A machine on which nothing is ready."""
    return record.Context(bundle=None, out=tmp_path, usable=(), device=0, frames=16, seconds=60.0)


class Machine:
    """Runs steps as scripted, on a clock of its own: seconds and what became of each, by name."""

    def __init__(self, **steps: Any) -> None:
        self.now, self.limits, self.steps = 0.0, dict[str, float](), steps

    def run(self, name: str, context: Any) -> ChildRun:
        self.limits[name] = context.seconds
        seconds, fault, items = self.steps.get(name.replace(" ", "_"), (1.0, "", []))
        self.now += min(seconds, context.seconds)
        stopped = fault.startswith("stopped")
        return ChildRun(value=items, fault=fault, seconds=seconds, log="its output", stopped=stopped)


def item(verdict: str, name: str = "a", words: str = "words") -> dict[str, Any]:
    return {"name": name, "verdict": verdict, "words": words, "values": {}}


def test_steps_go_on_after_one_that_crashed(acceptance: ModuleType, context: Any) -> None:
    """And time that one does not use is the others'; results are written after each."""
    machine = Machine(
        CUDA_layer=(5.0, "crashed with SIGSEGV", [item("passed")]), reference=(1.0, "", [item("passed")])
    )
    written: list[int] = []
    results = acceptance.run_steps(
        list(acceptance.STEPS),
        context,
        600.0,
        run=machine.run,
        clock=lambda: machine.now,
        done=lambda so_far: written.append(len(so_far)),
    )
    assert [result.name for result in results] == list(acceptance.STEPS)
    assert written == list(range(1, len(results) + 1))
    assert results[0].fault == "crashed with SIGSEGV"
    assert results[0].failed
    assert results[0].items == [item("passed"), item("failed", "CUDA layer", "crashed with SIGSEGV")], (
        "what it had found before is kept"
    )
    assert not results[1].failed
    shares = [step.share for step in acceptance.STEPS.values()]
    assert machine.limits["CUDA layer"] == pytest.approx(600 * shares[0] / sum(shares))
    assert machine.limits["times"] == pytest.approx(600 - machine.now + 1)


def test_a_step_without_time_is_missing_and_not_failed(acceptance: ModuleType, context: Any) -> None:
    """The steps before it took it all; one that was stopped at its limit keeps what it found, and is unfinished."""
    machine = Machine(engines=(1e9, "stopped after 20 s, its limit; it printed nothing", [item("passed")]))
    results = acceptance.run_steps(
        ["engines", "times"], context, 20.0, run=machine.run, clock=lambda: machine.now
    )
    assert results[0].items == [
        item("passed"),
        {
            **item(
                "missing",
                "engines",
                "unfinished, stopped after 20 s, its limit; it printed nothing; go on with --resume, or give more "
                "--minutes",
            ),
            "values": {"more_minutes": True},
        },
    ]
    assert [one["verdict"] for one in results[1].items] == ["missing"]
    assert not any(result.failed or result.proved for result in results)
    assert acceptance.verdict_words(results) == "nothing failed; unfinished: engines"
    text = page(acceptance.report_document(results, [], 1))
    assert "What failed" not in text
    assert "Proves" not in text


def test_what_needs_a_gpu_says_so_where_there_is_none(acceptance: ModuleType, context: Any) -> None:
    """However short the time is; the other steps get its share."""
    machine = Machine(reference=(1.0, "", [item("passed")]))
    results = acceptance.run_steps(
        ["CUDA layer", "engines", "reference"],
        replace(context, lacks_gpu="GPU, CUDA shows none"),
        20.0,
        run=machine.run,
        clock=lambda: machine.now,
    )
    for result in results[:2]:
        assert result.items == [item("missing", result.name, "no usable CUDA device: GPU, CUDA shows none")]
    assert machine.limits == {"reference": 20.0}
    assert [result.proved for result in results] == [False, False, True]


def test_the_second_start_is_told_beside_the_first(acceptance: ModuleType, context: Any) -> None:
    """Seconds of both in one line."""
    machine = Machine(
        first_start=(1.0, "", [item("noted", "tensorrt", "loaded after 9.0 s")]),
        second_start=(1.0, "", [item("noted", "tensorrt", "loaded after 1.0 s")]),
    )
    results = acceptance.run_steps(
        ["first start", "second start"], context, 600.0, run=machine.run, clock=lambda: machine.now
    )
    assert results[1].items[0]["words"] == "loaded after 1.0 s; the first time loaded after 9.0 s"


def test_the_report_names_what_failed(acceptance: ModuleType, context: Any, tmp_path: Path) -> None:
    """On the page and as JSON."""
    results = [
        acceptance.StepResult(
            name="video", proves="masks", items=[item("failed", "tensorrt", "mean IoU 0.5")]
        ),
        acceptance.StepResult(
            name="times",
            proves="times",
            fault="crashed with SIGABRT",
            log="<the last words>",
            items=[item("failed", "times", "crashed with SIGABRT")],
        ),
        acceptance.StepResult(name="memory", proves="budget", items=[item("missing")]),
    ]
    found = [Finding(group="GPU", name="GPU", state="wrong", found="none", mend="nvidia-smi")]
    text = page(acceptance.report_document(results, found, 10))
    for words in (
        "failed: video, times",
        "video, tensorrt: mean IoU 0.5",
        "times: crashed with SIGABRT",
        "It ended early",
        "Would prove: masks",
        'failed<b class="bad">2</b>',
        "&lt;the last words&gt;",
        "nvidia-smi",
    ):
        assert words in text
    values = json.loads(json.dumps(acceptance.report_json(results, found, context)))
    assert values["failed"]
    (tmp_path / "result.json").write_text(json.dumps(values))
    assert isinstance(read_saved(tmp_path / "result.json"), SavedAcceptance)
    assert [step["name"] for step in values["steps"]] == ["video", "times", "memory"]
    assert "nothing failed" in page(acceptance.report_document(results[2:], found, 10))


def test_a_step_runs_in_a_process_of_its_own(acceptance: ModuleType, context: Any) -> None:
    """On a machine where nothing is ready it says what is missing."""
    ran = acceptance.run_step("engines", context)
    assert ran.fault == ""
    assert [(one["verdict"], one["words"]) for one in ran.value] == [("missing", "CUDA device 0")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": "video,nothing"}, "--steps nothing: expected some of CUDA layer"),
        ({"minutes": 0.0}, "expected --minutes above 0"),
        ({"minutes": math.nan}, "expected --minutes above 0, up to 10080"),
        ({"minutes": math.inf}, "expected --minutes above 0, up to 10080"),
        ({"bundle": Path("nowhere")}, "nowhere is no bundle"),
        ({"trust_engines": True}, "--trust and --trust_engines go with --bundle"),
        pytest.param(
            {"out": Path("/proc/x")},
            "cannot write /proc/x",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="a folder in which nobody can write"),
        ),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    options: dict[str, Any], message: str, acceptance: ModuleType, tmp_path: Path
) -> None:
    """As the commands do."""
    given = {
        "bundle": None,
        "minutes": 1.0,
        "out": tmp_path,
        "device": 0,
        "frames": 132,
        "steps": None,
        "resume": False,
        "trust": [],
        "trust_engines": False,
        **options,
    }
    with pytest.raises(GmosError, match=message):
        acceptance.accept(Namespace(**given))


def test_a_changed_bundle_is_refused_before_anything_runs(
    acceptance: ModuleType, record: ModuleType, tmp_path: Path
) -> None:
    """A graph of the same length and other content, which only its hash tells, and one that is not there."""
    bundle = shutil.copytree(record.selftest_bundle(), tmp_path / "bundle")
    graph = bundle / "dino.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    given = Namespace(
        bundle=bundle,
        minutes=1.0,
        out=tmp_path / "out",
        device=0,
        frames=132,
        steps="memory",
        resume=False,
        trust=[],
        trust_engines=False,
    )
    with pytest.raises(GmosError, match="has changed since the export"):
        acceptance.accept(given)
    graph.unlink()
    with pytest.raises(GmosError, match=r"lacks its file dino\.onnx"):
        acceptance.accept(given)


@pytest.fixture
def run_twice(acceptance: ModuleType, context: Any, module: Module) -> Callable[..., Machine]:
    """Runs two steps as scripted, then again with what is kept of that; the second machine shows what ran."""

    def run(steps: dict[str, Any], **changes: Any) -> Machine:
        names, found = ["reference", "times"], [Finding(group="GPU", name="GPU", state="ok", found="one")]
        files = module("gmos_deploy.evaluation.report.files")

        def result(results: Any, of: Any) -> dict[str, Any]:
            return dict(acceptance.report_json(results, found, of))

        first, second = Machine(**steps), Machine()
        results = acceptance.run_steps(names, context, 600.0, run=first.run, clock=lambda: first.now)
        files.write_json(context.out / files.RESULT_FILE, result(results, context))
        now = result([], replace(context, **changes))
        earlier, _ = module("acceptance_steps.earlier").earlier_steps(context.out, now)
        kept = {name: acceptance.StepResult(**step) for name, step in earlier.items()}
        results = acceptance.run_steps(
            names, context, 600.0, run=second.run, clock=lambda: second.now, kept=kept
        )
        assert [one.name for one in results] == names
        assert all(one.items == [item("passed")] for one in results if one.earlier)
        return second

    return run


@pytest.mark.parametrize(
    ("first", "changes", "runs"),
    [
        ((1.0, "", [item("passed")]), {}, {"times"}),
        ((1.0, "", [item("failed")]), {}, {"reference", "times"}),
        ((1.0, "crashed with SIGSEGV", [item("passed")]), {}, {"reference", "times"}),
        ((1e9, "stopped after 9 s", [item("passed")]), {}, {"reference", "times"}),
        (
            (1.0, "", [item("passed"), {**item("missing"), "values": {"more_minutes": True}}]),
            {},
            {"reference", "times"},
        ),
        ((1.0, "", [item("passed")]), {"frames": 9}, {"reference", "times"}),
        ((1.0, "", [item("passed")]), {"usable": ("tensorrt",)}, {"reference", "times"}),
    ],
)
def test_a_run_goes_on_where_another_ended(
    first: Any, changes: dict[str, Any], runs: set[str], run_twice: Callable[..., Machine]
) -> None:
    """Steps that ended well are kept, unless what they ran on has changed; the others have all the time."""
    machine = run_twice({"reference": first, "times": (1.0, "", [])}, **changes)
    assert set(machine.limits) == runs
    if runs == {"times"}:
        assert machine.limits["times"] == 600.0


def test_some_steps_leave_what_is_kept_of_others(acceptance: ModuleType) -> None:
    """A report that a run goes on from loses nothing."""
    kept = {name: acceptance.StepResult(name=name, proves="") for name in ("times", "reference")}
    assert acceptance.with_kept(["video", "times"], kept) == ["reference", "video", "times"]
    assert acceptance.with_kept(["video"], {}) == ["video"]


def test_a_result_that_cannot_be_gone_on_from(acceptance: ModuleType, context: Any, module: Module) -> None:
    """None, and one of something else: every step runs, and why is said."""
    earlier = module("acceptance_steps.earlier").earlier_steps
    now = acceptance.report_json([], [], context)
    path = context.out / "result.json"
    assert earlier(context.out, now) == ({}, f"{path} is not there yet")
    for text in ("{", "[]", '{"schema": "gmos-parity/1"}', '{"schema": "gmos-acceptance/1", "steps": 3}'):
        path.write_text(text)
        kept, why = earlier(context.out, now)
        assert kept == {}
        assert "cannot be gone on from" in why


def test_an_interrupted_step_keeps_what_it_found(acceptance: ModuleType, context: Any) -> None:
    """The report is written before the run ends."""

    def interrupted(name: str, given: Any) -> ChildRun:
        folder = acceptance.step_folder(name, given)
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps([item("passed")]))
        raise Interrupted

    written: list[Any] = []
    with pytest.raises(Interrupted):
        acceptance.run_steps(["reference", "times"], context, 600.0, run=interrupted, done=written.append)
    ((result,),) = written
    assert result.items[0] == item("passed")
    assert (result.unfinished, result.items[1]["words"][:12]) == (True, "interrupted;")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_signal_ends_the_step_and_the_run(tmp_path: Path) -> None:
    """In one line, with the report of what was there, and nothing goes on running."""
    out = tmp_path / "report"
    program = [sys.executable, Path(__file__).parents[2] / "benchmarks" / "acceptance.py", "--out", out]
    run = subprocess.Popen(
        [*program, "--steps", "ONNX Runtime"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("ONNX Runtime: up to"):
            break
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGTERM)
    _, error = run.communicate(timeout=60)
    assert (run.returncode, error.strip()) == (
        143,
        "acceptance.py: interrupted; go on with --resume, or give more --minutes",
    )
    assert psutil.wait_procs(children, timeout=30)[1] == []
    values = json.loads((out / "result.json").read_text())
    assert [step["unfinished"] for step in values["steps"]] == [True]


def test_the_program_itself(tmp_path: Path) -> None:
    """One step, as a user starts it; the report is there, and the status tells bad input."""
    program = [
        sys.executable,
        Path(__file__).parents[2] / "benchmarks" / "acceptance.py",
        "--out",
        tmp_path / "report",
    ]
    ran = subprocess.run([*program, "--steps", "memory"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "ready here: " in ran.stdout
    values = json.loads((tmp_path / "report" / "result.json").read_text())
    made = values["made_from"]
    assert made["bundles"][0]["name"].startswith("nano-gmos-")
    assert len(made["clips"]) == 1
    assert values["schema"] == "gmos-acceptance/1"
    assert (tmp_path / "report" / "report.html").is_file()
    refused = subprocess.run([*program, "--steps", "x"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("acceptance.py: --steps x: expected some of")


def test_a_part_that_fails_leaves_the_others(record: ModuleType) -> None:
    """A refusal, a lack, and what nobody expected; each item is told at once."""
    told: list[int] = []
    notes = record.Notes(lambda items: told.append(len(items)))

    def refused() -> None:
        raise GmosError("the device is out of memory")

    def lacking() -> None:
        raise record.MissingError("a GPU")

    def unexpected() -> None:
        raise ZeroDivisionError("division\nby zero")

    for name, work in (("a", refused), ("b", lacking), ("c", unexpected)):
        notes.attempt(name, work)
    notes.expect("d", True, "right")
    assert [(one.verdict, one.words) for one in notes.items] == [
        ("failed", "the device is out of memory"),
        ("missing", "a GPU"),
        ("failed", "ZeroDivisionError: division by zero"),
        ("passed", "right"),
    ]
    assert told == [1, 2, 3, 4]


def test_no_part_begins_when_time_is_over(record: ModuleType) -> None:
    """It is missing, and not failed."""
    notes = record.Notes(lambda _: None, seconds=0.0)
    notes.attempt("late", lambda: notes.expect("late", False, "it ran"))
    assert [(one.name, one.verdict) for one in notes.items] == [("late", "missing")]


def test_sides_of_a_bundle_of_the_users(record: ModuleType, tmp_path: Path) -> None:
    """PyTorch runs nano alone: its masks are not those of another bundle.

    ONNX Runtime runs no bf16, and engines wait for the step that builds them.
    """
    usable = ("torch on cpu", "torch on cuda", "onnxruntime on cpu", "tensorrt")
    nano = record.Context(bundle=None, out=tmp_path, usable=usable, device=1, frames=16, seconds=1.0)
    bundle = shutil.copytree(record.selftest_bundle(), tmp_path / "bundle")
    shutil.rmtree(bundle / "engines", ignore_errors=True)
    own = replace(nano, bundle=bundle)
    assert set(nano.sides()) >= {"torch on cpu", "torch on cuda", "onnxruntime on cpu"}
    assert own.sides() == ("onnxruntime on cpu",)
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["networks"]["dino"]["precision"] = "bf16"
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    assert own.sides() == ()
    side = nano.side("torch on cuda", precision="fp16")
    assert (side.text, side.networks.device, side.networks.precision) == (
        "torch on cuda, fp16",
        "cuda:1",
        "fp16",
    )


def test_masks_are_held_within_the_limits_of_a_precision(module: Module, record: ModuleType) -> None:
    """What is beyond them is named with its frame."""
    videos = module("acceptance_steps.videos")
    square = np.zeros((4, 60, 60), np.uint8)
    square[:, 10:40, 10:40] = 1
    moved = square.copy()
    moved[2] = np.roll(square[2], 3, axis=1)
    notes = record.Notes(lambda _: None)
    for masks in (square, moved):
        videos.hold_masks(
            "tensorrt", {"mos": square}, {"mos": masks}, precision="fp16", rate=5.0, notes=notes
        )
    assert [one.verdict for one in notes.items] == ["passed", "failed"]
    assert "mos mean IoU 1.00000, least 1.00000; 5.0 frames/s" in notes.items[0].words
    assert "frame 00002" in notes.items[1].words


def test_a_budget_that_was_not_kept(module: Module, record: ModuleType) -> None:
    """What CUDA takes for itself is allowed beside it."""
    videos = module("acceptance_steps.videos")
    notes = record.Notes(lambda _: None)
    videos.hold_budget("tensorrt", 1000 << 20, 1500 << 20, notes)
    videos.hold_budget("tensorrt", 1000 << 20, 2000 << 20, notes)
    assert [one.verdict for one in notes.items] == ["passed", "failed"]


def test_calls_are_warmed_up_by_time(module: Module) -> None:
    """For as long as asked, whatever a call takes; the medians are of what came after."""
    times, now = module("acceptance_steps.times"), [0.0]

    class Backend:
        class arrays:  # noqa: N801 - a backend's field
            @staticmethod
            def synchronize() -> None:
                now[0] += 0.3

    calls = [0]

    def call() -> None:
        calls[0] += 1
        # Slow while it warms up.
        now[0] += 1.0 if now[0] < 10 else 0.1

    found = times.timed(call, Backend(), None, 12.0, clock=lambda: now[0])
    assert found["wall_ms"] == pytest.approx(400)
    assert found["enqueue_ms"] == pytest.approx(100)
    assert found["device_ms"] is None
    assert found["calls"] >= 12 / 0.4
    assert calls[0] > found["calls"]


def test_the_clip_has_as_many_frames_as_asked(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drawn one goes forwards and backwards without a jump."""
    from gmos_deploy.gmos_ref.presets import model_spec, preset

    clips = module("acceptance_steps.clips")
    monkeypatch.setattr(clips, "real_clip", lambda: None)
    sequence = clips.acceptance_video(model_spec(preset("nano"), "gmos"), 40)
    with sequence.open() as reader:
        frames = [frame.rgb for frame in reader]
    assert len(frames) == 40
    steps = [np.count_nonzero(a != b) for a, b in pairwise(frames)]
    assert 0 < max(steps) < 4 * min(steps)
