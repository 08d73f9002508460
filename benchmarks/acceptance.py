"""Shows whether everything works on this machine's GPU, in the order of risk, with one report.

    python benchmarks/acceptance.py [--bundle DIR] [--minutes 10] [--out DIR] [--device N] [--frames N] [--steps NAMES]
                                    [--resume] [--trust KEY.pub | --trust_engines]

Each step runs in a process of its own within its share of the minutes; after a crash, a hang or a failure the next
one begins. What the machine lacks is written down as missing. DIR gets result.json and report.html after every step,
and all that each step printed. Without --bundle nano runs, and engines are built beside its bundle in the cache;
engines that --bundle lacks, or that nobody vouches for, are built into it. R is the number of memories that memory
attention reads, P of object pointers. Exit status: 0 nothing failed (a step that was stopped at its limit is
unfinished: go on with --resume), 1 something did, 2 bad input, 130 interrupted. docs/gpu.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from acceptance_steps import cuda_layer, engines, masks, networks, times, videos
from acceptance_steps.clips import acceptance_video
from acceptance_steps.earlier import earlier_steps
from acceptance_steps.record import FOR_TIME, NO_TIME, Context, MissingError, Notes, Step

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.child_process import ChildRun, child_main, kept_report, run_child
from gmos_deploy.evaluation.doctor.command import diagnose
from gmos_deploy.evaluation.doctor.finding import NEEDS, Finding, ready
from gmos_deploy.evaluation.report import document as doc
from gmos_deploy.evaluation.report.environment import environment
from gmos_deploy.evaluation.report.files import PAGE_FILE, report_directory, write_report
from gmos_deploy.evaluation.report.terminal import show
from gmos_deploy.interruption import (
    SIGNAL_STATUS,
    Interrupted,
    answer_signals,
    clear_up_first,
    interrupted_by,
)
from gmos_deploy.runtime.bundle.manifest import open_bundle
from gmos_deploy.runtime.bundle.signature import Trust
from gmos_deploy.runtime.files.made_from import KEY, NOTHING, MadeFrom

SCHEMA = "gmos-acceptance/1"

LEAST_S = 10.0
"""Less than this is no time for a step."""

SOFT_SHARE = 0.8
"""Of a step's time, after which it begins no further part: the rest is for the part that it is in."""

FAILED_STATUS, BAD_INPUT_STATUS = 1, 2

MOST_MINUTES = 7 * 24 * 60

AGAIN = "go on with --resume, or give more --minutes"

STEPS_FOLDER = "steps"
"""In --out: a folder for each step, with all that it printed."""

TONES: Mapping[str, doc.Tone] = {"passed": "good", "failed": "bad", "missing": "dim", "noted": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A step, its share of the time, and what it proves."""

    work: Step
    share: float
    proves: str
    after: Callable[[list[dict[str, Any]], list[dict[str, Any]]], list[dict[str, Any]]] | None = None
    """Joins its items with those of the step before it."""
    on_gpu: bool = False
    """Without a CUDA device there is nothing that it could do."""


STEPS: Mapping[str, Planned] = {
    "CUDA layer": Planned(
        work=cuda_layer.cuda_layer,
        share=5,
        proves="memory, copies, their order, graphs and events are right before any network runs on them",
        on_gpu=True,
    ),
    "reference": Planned(
        work=masks.reference,
        share=12,
        proves="PyTorch on this GPU gives the masks of a CPU: in float32 without TF32, in fp16 and bf16 within limits",
    ),
    "ONNX Runtime": Planned(
        work=masks.onnxruntime,
        share=8,
        proves="a bundle gives the reference's masks, and on CUDA the same ones every time, so nothing races",
    ),
    "engines": Planned(
        work=engines.engines,
        share=25,
        proves="every engine builds here, fits, and was compared with ONNX Runtime",
        on_gpu=True,
    ),
    "networks": Planned(
        work=networks.networks,
        share=12,
        proves="each network is right on what it sees in a video, not on noise alone",
    ),
    "memories": Planned(
        work=networks.memories,
        share=8,
        proves="memory attention is right while working memory grows, and finite at the lengths of long videos",
    ),
    "video": Planned(
        work=videos.video,
        share=18,
        proves="whole videos: masks with and without CUDA graphs, twice the same, and speed",
    ),
    "memory": Planned(
        work=videos.memory,
        share=5,
        proves="a run keeps within --memory_budget on the device",
        on_gpu=True,
    ),
    "first start": Planned(
        work=videos.first_start, share=5, proves="how long a process takes until its first answer"
    ),
    "second start": Planned(
        work=videos.start,
        share=5,
        proves="the caches of the first start are taken, and spare its time",
        after=videos.compare_starts,
    ),
    "times": Planned(
        work=times.times,
        share=14,
        proves="times of every network against what this device can do: kernels that fell back show here",
    ),
}
"""In the order of risk: what a later step builds on comes before it."""


@dataclass(slots=True, kw_only=True)
class StepResult:
    """What became of a step; `fault` says how it ended if it did not end by itself, `unfinished` at its limit.

    `earlier` is the date of the run that it was taken from, empty for this one.
    """

    name: str
    proves: str
    seconds: float = 0.0
    fault: str = ""
    log: str = ""
    unfinished: bool = False
    earlier: str = ""
    items: list[dict[str, Any]] = field(default_factory=list)

    def count(self, verdict: str) -> int:
        """Items of a verdict."""
        return sum(item["verdict"] == verdict for item in self.items)

    @property
    def failed(self) -> bool:
        """Whether anything was not as it must be."""
        return self.count("failed") > 0

    @property
    def proved(self) -> bool:
        """Whether all that it looks at was seen, and was right."""
        return bool(self.items) and not (self.failed or self.unfinished or self.count("missing"))

    def add(self, verdict: str, words: str, **values: Any) -> None:
        """Write down what became of the step as a whole."""
        self.items.append({"name": self.name, "verdict": verdict, "words": words, "values": values})


Run = Callable[[str, Context], ChildRun]


def step_folder(name: str, context: Context) -> Path:
    """Where a step leaves what it printed."""
    return context.out / STEPS_FOLDER / name.replace(" ", "_")


def run_step(name: str, context: Context) -> ChildRun:
    """Run a step in a process of its own."""
    given = json.dumps({**asdict(context), "bundle": str(context.bundle or ""), "out": str(context.out)})
    command = [Path(__file__), "--step", name, given]
    return run_child(command, limit_s=context.seconds, folder=step_folder(name, context))


def step_main(name: str, given: str, report: Path) -> int:
    """What that process does."""
    fields = json.loads(given)
    context = Context(
        **{
            **fields,
            "bundle": Path(fields["bundle"]) if fields["bundle"] else None,
            "out": Path(fields["out"]),
            "usable": tuple(fields["usable"]),
            "trust": tuple(fields["trust"]),
        }
    )

    def work(tell: Callable[[Any], None]) -> None:
        notes = Notes(tell, SOFT_SHARE * context.seconds)
        try:
            STEPS[name].work(context, notes)
        except MissingError as error:
            notes.add(name, "missing", str(error))

    return child_main(work, report)


def run_steps(
    names: Sequence[str],
    context: Context,
    seconds: float,
    *,
    done: Callable[[list[StepResult]], None] = lambda _: None,
    run: Run = run_step,
    clock: Callable[[], float] = time.monotonic,
    kept: Mapping[str, StepResult] | None = None,
) -> list[StepResult]:
    """Run steps one after the other; what one does not use of its time is the others'.

    Args:
        names: of `STEPS`.
        context: what all have in common.
        seconds: for all of them together.
        done: gets the results after each step.
        run: runs one.
        clock: monotonic seconds.
        kept: what is taken from an earlier run.

    Raises:
        Interrupted: by a signal; what the step had found until then was given to `done`.
    """
    end, results, kept = clock() + seconds, list[StepResult](), kept or {}
    # A step that can do nothing here takes no share, nor does one that was done before.
    shares = {
        name: 0.0 if name in kept or (STEPS[name].on_gpu and context.lacks_gpu) else STEPS[name].share
        for name in names
    }
    for place, name in enumerate(names):
        planned = STEPS[name]
        if name in kept:
            print(f"{name}: as on {kept[name].earlier}", flush=True)
            results.append(kept[name])
            done(results)
            continue
        result = StepResult(name=name, proves=planned.proves)
        limit = (end - clock()) * shares[name] / (sum(shares[later] for later in names[place:]) or 1)
        if not shares[name]:
            result.add("missing", f"no usable CUDA device: {context.lacks_gpu}")
        elif limit < LEAST_S:
            result.add("missing", NO_TIME, **{FOR_TIME: True})
        else:
            try:
                print(f"{name}: up to {limit:.0f} s", flush=True)
                ran = run(name, replace(context, seconds=limit))
            except Interrupted:
                result.items = list(kept_report(step_folder(name, context)) or [])
                result.fault, result.unfinished = "interrupted", True
                result.add("missing", f"interrupted; {AGAIN}", **{FOR_TIME: True})
                done([*results, result])
                raise
            result.seconds, result.fault, result.log = ran.seconds, ran.fault, ran.log
            result.unfinished = ran.stopped
            result.items = list(ran.value or [])
            if planned.after is not None and results:
                result.items = planned.after(results[-1].items, result.items)
            if ran.stopped:
                result.add("missing", f"unfinished, {ran.fault}; {AGAIN}", **{FOR_TIME: True})
            elif ran.fault:
                result.add("failed", ran.fault)
        for item in result.items:
            print(f"  {item['verdict']:<8} {item['name']}: {item['words']}", flush=True)
        results.append(result)
        done(results)
    return results


def with_kept(names: Sequence[str], kept: Mapping[str, StepResult]) -> list[str]:
    """The steps of a report: those asked for, and what an earlier run had of others, in their order."""
    return [name for name in STEPS if name in names or name in kept]


def origins(context: Context) -> MadeFrom:
    """The bundle and the clip that steps run; of what cannot be read, the steps tell that need it."""
    try:
        bundle = context.opened_bundle()
    except GmosError:
        return NOTHING
    return bundle.made_from() | acceptance_video(bundle.model, context.frames).made_from()


def report_json(
    results: Sequence[StepResult],
    found: Sequence[Finding],
    context: Context,
    made_from: MadeFrom = NOTHING,
) -> dict[str, Any]:
    """All of it as JSON values."""
    return {
        "schema": SCHEMA,
        "failed": any(result.failed for result in results),
        "bundle": None if context.bundle is None else str(context.bundle),
        "device": context.device,
        "frames": context.frames,
        "usable": list(context.usable),
        "steps": [asdict(result) for result in results],
        "findings": [asdict(finding) for finding in found],
        KEY: asdict(made_from),
        "environment": environment(),
    }


def verdict_words(results: Sequence[StepResult]) -> str:
    """Which steps failed, and which were stopped at their limit."""
    failed = ", ".join(result.name for result in results if result.failed)
    unfinished = ", ".join(result.name for result in results if result.unfinished)
    verdict = f"failed: {failed}" if failed else "nothing failed"
    return f"{verdict}; unfinished: {unfinished}" if unfinished else verdict


def report_document(results: Sequence[StepResult], found: Sequence[Finding], minutes: float) -> doc.Document:
    """The report of a run, for a page and a terminal."""
    totals = {verdict: sum(result.count(verdict) for result in results) for verdict in TONES}
    failed = [result for result in results if result.failed]
    remarks = [
        f"{', '.join(dict.fromkeys([result.name, item['name']]))}: {item['words']}"
        for result in results
        for item in result.items
        if item["verdict"] == "failed"
    ]
    columns: list[doc.Column[dict[str, Any]]] = [
        doc.Column("what", lambda item: item["name"]),
        doc.Column("", lambda item: doc.Cell(item["verdict"], tone=TONES[item["verdict"]])),
        doc.Column("found", lambda item: item["words"]),
    ]
    findings: list[doc.Column[Finding]] = [
        doc.Column("what", lambda finding: finding.name),
        doc.Column(
            "", lambda finding: doc.Cell(finding.state, tone="bad" if finding.state == "wrong" else "")
        ),
        doc.Column("found", lambda finding: finding.found),
        doc.Column("mends it", lambda finding: finding.mend),
    ]
    verdict = verdict_words(results)
    return doc.Document(
        title="gmos-deploy acceptance run",
        lead=f"{len(results)} steps in {sum(result.seconds for result in results):.0f} s of {60 * minutes:.0f} s",
        cards=[
            doc.Card(verdict, str(count), tone="bad" if verdict == "failed" and count else "")
            for verdict, count in totals.items()
        ],
        remarks=doc.Section("What failed", [doc.Remarks(remarks, tone="bad")]) if remarks else None,
        verdict=doc.Card("verdict", verdict, tone="bad" if failed else "good"),
        sections=[
            *(
                doc.Section(
                    f"{result.name}, {result.seconds:.0f} s"
                    + (f", on {result.earlier}" if result.earlier else ""),
                    [
                        doc.Text(f"{'Proves' if result.proved else 'Would prove'}: {result.proves}."),
                        doc.Table(columns=columns, entries=result.items),
                        *(
                            [doc.Text(f"It ended early. The end of its output: {result.log}")]
                            if result.fault and result.log
                            else []
                        ),
                    ],
                )
                for result in results
            ),
            doc.Section("The machine, by gmos-doctor", [doc.Table(columns=findings, entries=found)], "page"),
        ],
        environment=environment(),
    )


def main() -> int:
    """Run the steps and write the report."""
    if sys.argv[1:2] == ["--step"]:
        name, given, report = sys.argv[2:]
        return step_main(name, given, Path(report))
    answer_signals("acceptance.py", keeps_results=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="the bundle to run; nano without it")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all steps together (10)")
    parser.add_argument(
        "--out", type=Path, default=Path("acceptance"), metavar="DIR", help="of the report (acceptance)"
    )
    parser.add_argument("--device", type=int, default=0, metavar="N", help="number of the GPU (0)")
    parser.add_argument("--frames", type=int, default=132, metavar="N", help="of the clip (132)")
    parser.add_argument("--steps", metavar="NAMES", help=f"some of {', '.join(STEPS)}; all without it")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the steps in --out that ended with nothing failed, of the same bundle, machine and software",
    )
    parser.add_argument(
        "--trust", type=Path, action="append", default=[], metavar="KEY.pub", help="as gmos-run takes it"
    )
    parser.add_argument("--trust_engines", action="store_true", help="as gmos-run takes it")
    options = parser.parse_args()
    clear_up_first()
    try:
        return accept(options)
    except Interrupted:
        print(f"acceptance.py: interrupted; {AGAIN}", file=sys.stderr)
        return SIGNAL_STATUS + (interrupted_by() or signal.SIGINT)
    except GmosError as error:
        print(f"acceptance.py: {error}", file=sys.stderr)
        return BAD_INPUT_STATUS


def accept(options: argparse.Namespace) -> int:
    """Diagnose, run, report; the exit status.

    Raises:
        GmosError: an option cannot be used.
    """
    begin = time.monotonic()
    names = list(STEPS) if options.steps is None else [name.strip() for name in options.steps.split(",")]
    for name in names:
        if name not in STEPS:
            raise GmosError(f"--steps {name}: expected some of {', '.join(STEPS)}")
    if not 0 < options.minutes <= MOST_MINUTES or options.frames < videos.LEAST_FRAMES:
        raise GmosError(
            f"expected --minutes above 0, up to {MOST_MINUTES}, and --frames of at least {videos.LEAST_FRAMES}"
        )
    trust = Trust(keys=tuple(options.trust), engines=options.trust_engines)
    if options.bundle is not None:
        given = open_bundle(options.bundle, trust)
        for file in given.files:
            given.files.verified(file)
    elif trust != Trust():
        raise GmosError("--trust and --trust_engines go with --bundle, which was not given")
    report_directory(options.out, "--out")
    found = diagnose(bundle=options.bundle, device=options.device, trust=trust)
    context = Context(
        bundle=options.bundle,
        out=options.out,
        usable=tuple(name for name in NEEDS if ready(found, name)),
        device=options.device,
        frames=options.frames,
        seconds=0.0,
        lacks_gpu=next(
            (
                f"{one.name}, {one.found}"
                for one in found
                if one.name in ("NVIDIA driver", "GPU", "cuda-bindings") and one.state != "ok"
            ),
            "",
        ),
        trust=tuple(map(str, options.trust)),
        trust_engines=options.trust_engines,
    )
    print(f"ready here: {', '.join(context.usable) or 'nothing'}", flush=True)
    made_from = origins(context)

    def write(results: list[StepResult]) -> None:
        page = report_document(results, found, options.minutes)
        write_report(options.out, page, report_json(results, found, context, made_from))

    kept = dict[str, StepResult]()
    if options.resume:
        earlier, why_not = earlier_steps(options.out, report_json([], found, context, made_from))
        kept = {name: StepResult(**step) for name, step in earlier.items()}
        if why_not:
            print(f"every step runs: {why_not}", flush=True)
        names = with_kept(names, kept)
    left = 60 * options.minutes - (time.monotonic() - begin)
    results = run_steps(names, context, left, done=write, kept=kept)
    show(report_document(results, found, options.minutes))
    print(f"report: {options.out / PAGE_FILE}")
    return FAILED_STATUS if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
