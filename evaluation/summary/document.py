"""Results of many commands as one document: what each found, what all were made from, and on which machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...runtime.bundle.recipe import RecipeAgreement, levers_text
from ...runtime.files.made_from import joined
from ..benchmarks.results import METRICS
from ..profile.layer_kinds import lengths_text
from ..report import document as doc
from ..report.document import Block, Card, Cell, Column, Remarks, Section, Table, Text
from ..report.origins import origins_section
from .saved import (
    Found,
    MaskResult,
    NetworkOutput,
    Note,
    QuantisedNetwork,
    Saved,
    SavedAcceptance,
    SavedCalibration,
    SavedDiagnosis,
    SavedEvaluation,
    SavedFinalist,
    SavedParity,
    SavedProfile,
    SavedStep,
    SavedTuning,
    ScoredSequence,
    SeenItem,
    TimedNetwork,
    TimedRun,
)
from .score_table import chosen_metrics, remarks, score_table

MIB = 1 << 20

Verdict: TypeAlias = tuple[str, doc.Tone]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one result comes to: what it is of, its verdict, what a reader must not miss, and its blocks."""

    title: str
    of: str
    verdict: Verdict
    remarks: Sequence[str]
    blocks: Sequence[Block]


def summary_document(found: Sequence[Saved], title: str) -> doc.Document:
    """The document of results, those of gmos-eval together in one table.

    Args:
        found: at least one.
        title: of the page.
    """
    evaluations = [one for one in found if isinstance(one, SavedEvaluation)]
    others = [summary_of(one) for one in found if not isinstance(one, SavedEvaluation)]
    scored = [_evaluations(evaluations)] if evaluations else []
    summaries = [*others, *scored]
    failed = [one.title for one in summaries if one.verdict[1] == "bad"]
    dates = sorted(one.environment.date[:10] for one in found if one.environment.date)
    period = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "date unknown"
    versions = sorted({one.environment.gmos_deploy for one in found if one.environment.gmos_deploy})
    warnings = [f"{one.title}: {line}" for one in summaries for line in one.remarks]
    if len(versions) > 1:
        warnings.append(f"made by several versions of gmos-deploy: {', '.join(versions)}")
    return doc.Document(
        title=title,
        lead=f"{period}, gmos-deploy {', '.join(versions) or 'of unknown version'}, results: {len(found)}",
        cards=[Card(one.title, one.verdict[0], tone=one.verdict[1]) for one in summaries],
        remarks=Section("Before you believe it", [Remarks(warnings, tone="bad")]),
        verdict=Card(
            "Verdict",
            f"failed: {', '.join(failed)}" if failed else "nothing failed",
            tone="bad" if failed else "good",
        ),
        sections=[
            *(Section(one.title, [Text(f"{one.of}.", everywhere=True), *one.blocks]) for one in summaries),
            origins_section(joined(one.made_from for one in found), folded=False),
            Section("Made on", list(_machines(found))),
        ],
    )


def summary_of(saved: Saved) -> Summary:
    """One result."""
    return SUMMARIES[type(saved)](saved)


def _parity(saved: SavedParity) -> Summary:
    verdict: Verdict = ("PASS", "good") if saved.passed else ("FAIL", "bad")
    masks: list[Column[MaskResult]] = [
        Column("result of video", lambda one: f"{one.result} of {one.sequence}"),
        Column("frames", lambda one: one.frames, "d", "", "room"),
        Column("mean IoU", lambda one: one.mean_iou, ".5f"),
        Column("least IoU", lambda one: one.worst_frame.iou, ".5f"),
        Column("on frame", lambda one: one.worst_frame.name, shown="room"),
        Column("pixels differ", lambda one: one.different_pixels, "d", "", "room"),
    ]
    outputs: list[Column[NetworkOutput]] = [
        Column("output", lambda one: f"{one.network}.{one.output}"),
        Column("relative L2", lambda one: one.relative, ".2e", "worst call"),
        Column("cosine", lambda one: one.cosine, ".7f"),
        Column("changed", lambda one: one.changed, ".1e", "share", "room"),
        Column("max", lambda one: one.max_abs, ".2e", "absolute", "room"),
    ]
    worst = max(saved.outputs, key=lambda one: one.relative or 0.0, default=None)
    found = (
        ""
        if worst is None
        else f"; worst relative L2 {worst.relative or 0.0:.2e}, {worst.network}.{worst.output}"
    )
    return Summary(
        title=f"gmos-parity {saved.kind}",
        of=f"{saved.b} against {saved.a}, limits {saved.profile}{found}",
        verdict=verdict,
        remarks=saved.failures,
        blocks=[
            Table(columns=masks, entries=saved.results),
            Table(columns=outputs, entries=saved.outputs, folded="Every output"),
            Remarks([f"{one.sequence}: {one.words}" for one in saved.born_in], tone="dim"),
        ],
    )


def _profile(saved: SavedProfile) -> Summary:
    letters = doc.lettered(saved.sides)
    runs: list[Column[TimedRun]] = [
        Column("side", lambda one: letters.get(one.side, one.side)),
        Column("frames/s", lambda one: one.frames_per_second, ".2f"),
        Column("frames", lambda one: one.frames, "d", "", "room"),
        Column("load s", lambda one: one.load_s, ".1f"),
        Column("peak MiB", lambda one: one.peak_mib, ".0f"),
        Column("GPU MiB", lambda one: one.device_mib, ".0f"),
        Column("backend", lambda one: one.description, shown="wide"),
    ]

    def ratio(one: TimedNetwork) -> float | None:
        return None if one.ratio_to_first is None else one.ratio_to_first.median

    networks: list[Column[TimedNetwork]] = [
        Column("network", lambda one: f"{one.network} {lengths_text(one.lengths)}".strip()),
        Column("side", lambda one: letters.get(one.side, one.side)),
        Column("median ms", lambda one: one.p50_ms, ".2f"),
        Column("99 %", lambda one: one.p99_ms, ".2f", "ms", "room"),
        Column("first / this", ratio, ".2f", "by rounds"),
    ]
    rates = [f"{one.frames_per_second:.2f}" for one in saved.runs if one.frames_per_second is not None]
    words = f"{' and '.join(rates)} frames/s" if rates else f"{len(saved.networks)} times"
    sides = "; ".join(f"{letter}: {side}" for side, letter in letters.items())
    return Summary(
        title="gmos-profile",
        of=f"{saved.video}; {sides}",
        verdict=(words, ""),
        remarks=saved.warnings,
        blocks=[
            Table(columns=runs, entries=saved.runs),
            Table(columns=networks, entries=saved.networks, folded="Every network"),
        ],
    )


def _evaluations(found: Sequence[SavedEvaluation]) -> Summary:
    sequences: list[Column[tuple[str, ScoredSequence]]] = [
        Column("sequence", lambda entry: f"{entry[1].name} of {entry[0]}"),
        Column("frames", lambda entry: len(entry[1].frames), "d", "", "room"),
    ]
    names = chosen_metrics(found, None)
    for number, name in enumerate(names):
        sequences.append(
            Column(METRICS[name].title, _metric(name), ".4f", shown="always" if number < 2 else "wide")
        )
    notes: list[Column[tuple[str, Note]]] = [
        Column("counted in", lambda entry: entry[0]),
        Column("what", lambda entry: entry[1].text),
        Column("times", lambda entry: entry[1].count, "d"),
    ]
    return Summary(
        title="gmos-eval",
        of=", ".join(dict.fromkeys(f"{one.evaluator} on {one.dataset}" for one in found)),
        verdict=(f"{sum(len(one.sequences) for one in found)} sequences", ""),
        remarks=remarks(found),
        blocks=[
            score_table(found, names),
            Table(
                columns=sequences,
                entries=[(one.dataset, sequence) for one in found for sequence in one.sequences],
                folded="Every sequence",
            ),
            Table(
                columns=notes,
                entries=[(one.dataset, note) for one in found for note in one.notes],
                folded="What was counted that may change a number",
            ),
        ],
    )


def _metric(name: str) -> Callable[[tuple[str, ScoredSequence]], float | None]:
    return lambda entry: entry[1].metrics.get(name)


def _calibration(saved: SavedCalibration) -> Summary:
    columns: list[Column[QuantisedNetwork]] = [
        Column("network", lambda one: one.name),
        Column("layers quantised", lambda one: one.layers, "d"),
        Column("weight-only", lambda one: one.weight_only, "d", "layers", "room"),
        Column("error", lambda one: one.error, ".2e", "greatest relative"),
    ]
    size = saved.weight_bytes
    return Summary(
        title="Calibration",
        of=f"{saved.calibration.precision}, ranges {saved.calibration.ranges}",
        verdict=(f"{size.before / MIB:.1f} to {size.after / MIB:.1f} MiB of weights", ""),
        remarks=(),
        blocks=[Table(columns=columns, entries=saved.networks)],
    )


def _acceptance(saved: SavedAcceptance) -> Summary:
    def count(verdict: str) -> Callable[[SavedStep], int]:
        return lambda step: sum(item.verdict == verdict for item in step.items)

    steps: list[Column[SavedStep]] = [
        Column("step", lambda step: step.name),
        Column("s", lambda step: step.seconds, ".0f", "", "room"),
        Column("passed", count("passed"), "d"),
        Column(
            "failed",
            lambda step: Cell(str(n), n, "bad" if n else "") if (n := count("failed")(step)) else 0,
            "d",
        ),
        Column("missing", count("missing"), "d", "", "room"),
        Column("would prove", lambda step: step.proves, shown="wide"),
    ]
    items: list[Column[tuple[SavedStep, SeenItem]]] = [
        Column("what", lambda entry: f"{entry[0].name}: {entry[1].name}"),
        Column("", lambda entry: Cell(entry[1].verdict, tone="bad" if entry[1].verdict == "failed" else "")),
        Column("found", lambda entry: entry[1].words),
    ]
    every = [(step, item) for step in saved.steps for item in step.items]
    wrong = [(step, item) for step, item in every if item.verdict == "failed"]
    unfinished = [step.name for step in saved.steps if step.unfinished]
    verdict: Verdict = ("failed", "bad") if saved.failed else ("nothing failed", "good")
    return Summary(
        title="Acceptance run",
        of=f"{len(saved.steps)} steps" + (f"; unfinished: {', '.join(unfinished)}" if unfinished else ""),
        verdict=verdict,
        remarks=[f"{step.name}, {item.name}: {item.words}" for step, item in wrong],
        blocks=[
            Table(columns=steps, entries=saved.steps),
            Table(columns=items, entries=every, folded="Everything that was looked at"),
        ],
    )


def _diagnosis(saved: SavedDiagnosis) -> Summary:
    columns: list[Column[Found]] = [
        Column("what", lambda one: one.name),
        Column("", lambda one: Cell(one.state, tone="bad" if one.state == "wrong" else "")),
        Column("found", lambda one: one.found),
        Column("mends it", lambda one: one.mend or None, shown="wide"),
    ]
    ready = [one.name for one in saved.findings if one.group == "What can run here" and one.state == "ok"]
    verdict: Verdict = ("something is wrong", "bad") if saved.status else ("nothing is wrong", "good")
    return Summary(
        title="gmos-doctor",
        of=f"ready: {', '.join(ready) or 'nothing'}",
        verdict=verdict,
        remarks=[f"{one.name}: {one.found}" for one in saved.findings if one.state == "wrong"],
        blocks=[Table(columns=columns, entries=saved.findings, folded="All findings")],
    )


def _tuning(saved: SavedTuning) -> Summary:
    recipe = saved.recipe
    kept: list[Column[tuple[str, RecipeAgreement]]] = [
        Column("result", lambda entry: f"{entry[1].result}, {entry[0]}"),
        Column("mean", lambda entry: entry[1].mean, ".3f", "of videos"),
        Column("worst", lambda entry: entry[1].worst, ".3f", "video"),
        Column("which", lambda entry: entry[1].worst_video, shown="room"),
    ]
    tried: list[Column[SavedFinalist]] = [
        Column("levers", lambda one: levers_text(one.levers) or "exact"),
        Column("times as fast", lambda one: one.speedup, ".2f", "medians"),
    ]
    return Summary(
        title=f"gmos-export tune, recipe {recipe.name}",
        of=f"{recipe.variant}: {recipe.line()}; target {recipe.target_masks:g}",
        verdict=(f"{recipe.speedup:.2f} times as fast", ""),
        remarks=saved.warnings,
        blocks=[
            Table(
                columns=kept,
                entries=[
                    *(("tuned on", one) for one in recipe.agreement),
                    *(("held out", one) for one in recipe.held_out),
                ],
            ),
            Table(columns=tried, entries=saved.finalists, folded="In turns with the exact run"),
            Remarks(saved.left_out, tone="dim"),
        ],
    )


SUMMARIES: Mapping[type[Saved], Callable[[Any], Summary]] = {
    SavedParity: _parity,
    SavedProfile: _profile,
    SavedCalibration: _calibration,
    SavedAcceptance: _acceptance,
    SavedDiagnosis: _diagnosis,
    SavedTuning: _tuning,
}
"""How each result is shown; those of gmos-eval are shown together."""


def _machines(found: Sequence[Saved]) -> Iterator[Block]:
    """Each machine once, with the files that were made on it; dates and commands in a table of their own."""
    of = ("system", "machine", "cpu", "cores", "memory_mib", "gpus", "python", "packages")
    machines: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for one in found:
        made = one.environment
        facts = {name: getattr(made, name) for name in of}
        machines.setdefault(repr(facts), (facts, []))[1].append(one.file)
    for facts, files in machines.values():
        told = {name: fact for name, fact in facts.items() if fact}
        yield doc.facts_of({**told, "results": files})
    columns: list[Column[Saved]] = [
        Column("result", lambda one: one.file),
        Column("date", lambda one: one.environment.date or None),
        Column("version", lambda one: one.environment.gmos_deploy or None, shown="room"),
        Column("command", lambda one: one.environment.command or None, shown="wide"),
    ]
    yield Table(columns=columns, entries=found)
