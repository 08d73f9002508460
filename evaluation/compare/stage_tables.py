"""Stages of a comparison as tables of the terminal and of the page, both modes side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..report.html_page import escaped, sortable_table, table_row
from .stage_agreement import MODE_WORDS, Birth, Mode, StageAgreement

LEGEND = (
    "Free-running: every stage of B works on what B's own stages before it gave, as in a run. Teacher-forced: on what "
    "A's gave, so that a stage shows only what is born in it."
)


def stage_tables(
    stages: Sequence[StageAgreement], births: Sequence[Birth], *, passed: bool
) -> Iterator[RenderableType]:
    """For the terminal: stage by stage, and where the difference of each video is born."""
    if not stages:
        return
    table = Table(title="Stages", title_justify="left")
    for head in ("stage of video", "mode", "measure"):
        table.add_column(head)
    for head in ("mean", "worst", "on frame"):
        table.add_column(head, justify="right")
    table.add_column("what differs")
    for stage in stages:
        table.add_row(
            f"{stage.stage} of {stage.sequence}",
            MODE_WORDS[stage.mode],
            stage.measure,
            _number(stage, stage.mean),
            Text(_number(stage, stage.worst), style="red" if stage.beyond else ""),
            stage.frame,
            stage.words,
        )
    yield table
    for birth in births:
        yield Text(f"{birth.sequence}: {birth.words}", style="yellow" if birth.stages else "")
    if not births and not passed:
        yield Text("in which stage the difference is born: --teacher_forced", style="dim")


def born_card(birth: Birth) -> str:
    """The page's card of where a video's difference is born."""
    name = birth.stages[0] if birth.stages else "–"
    return f'<div class="card">{escaped(birth.sequence)} born in<b>{escaped(name)}</b></div>'


def stages_section(stages: Sequence[StageAgreement], births: Sequence[Birth]) -> str:
    """The page's section: a row per stage with both modes, then what differs in words."""
    if not stages:
        return ""
    modes: list[Mode] = ["free", "teacher_forced"] if births else ["free"]
    heads = ["Stage", "Measure"]
    for mode in modes:
        words = MODE_WORDS[mode].capitalize()
        heads += [f"{words}: mean", "worst", "on frame"]
    found = {(stage.sequence, stage.stage, stage.mode): stage for stage in stages}
    order = _order(stages)
    rows = []
    for sequence, name in order:
        known = {mode: found[sequence, name, mode] for mode in modes if (sequence, name, mode) in found}
        measure = next(iter(known.values())).measure
        cells = [(0.0, escaped(measure))]
        for mode in modes:
            cells += _cells(known.get(mode))
        rows.append(table_row(f"{name} of {sequence}", *cells))
    born = "".join(f"<li>{escaped(birth.sequence)}: {escaped(birth.words)}</li>" for birth in births)
    details = "".join(f"<li>{escaped(_sentence(stage))}</li>" for stage in stages)
    return (
        "<h2>Stages</h2>"
        + (f'<ul class="notes">{born}</ul>' if born else "")
        + f'<p class="dim">{LEGEND} Bold: beyond the limits.</p>'
        + sortable_table(heads, rows)
        + f"<details open><summary>What differs</summary><ul>{details}</ul></details>"
    )


def _order(stages: Sequence[StageAgreement]) -> list[tuple[str, str]]:
    """Videos and their stages as the pipeline runs them: teacher-forced videos have all of them."""
    videos = dict.fromkeys(stage.sequence for stage in stages)
    order = []
    for video in videos:
        names = [stage for stage in stages if stage.sequence == video]
        forced = [stage.stage for stage in names if stage.mode == "teacher_forced"]
        order += [(video, name) for name in dict.fromkeys(forced or [stage.stage for stage in names])]
    return order


def _cells(stage: StageAgreement | None) -> list[tuple[float, str]]:
    if stage is None:
        return [(0.0, "–")] * 3
    worst = _number(stage, stage.worst)
    return [
        (stage.mean, _number(stage, stage.mean)),
        (stage.worst, worst if stage.beyond is None else f"<b>{worst}</b>"),
        (0.0, escaped(stage.frame)),
    ]


def _sentence(stage: StageAgreement) -> str:
    beyond = "" if stage.beyond is None else f" – beyond the limits: {stage.beyond}"
    return f"{stage.stage} of {stage.sequence}, {MODE_WORDS[stage.mode]}: {stage.words}{beyond}"


def _number(stage: StageAgreement, value: float) -> str:
    return f"{value:.5f}" if stage.measure.startswith("IoU") else f"{value:.1e}"
