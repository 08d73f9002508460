"""One table of many evaluations: a row for each dataset, metrics in percent as papers print them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import click

from ...errors import GmosError, printable
from ..benchmarks.results import METRICS
from ..report.document import Cell, Column, Document, Remarks, Section, Table, Value
from ..report.table_formats import TABLE_FORMATS
from ..report.terminal import show
from .saved import SavedEvaluation, read_saved

ALL = "all"

SHOWN_NOTES = ("skipped_sequences", "foreground_as_objects")
"""Notes without which a number in a table is misread."""


def print_table(paths: Sequence[Path], form: str, metrics: str | None) -> None:
    """Read results of gmos-eval and print their table.

    Raises:
        GmosError: one is none, or there is no such metric.
    """
    found = []
    for path in paths:
        saved = read_saved(path)
        if not isinstance(saved, SavedEvaluation):
            raise GmosError(f"{path} is no result of gmos-eval; expected what its --json wrote")
        found.append(saved)
    table, lines = score_table(found, chosen_metrics(found, metrics)), remarks(found)
    if form == "text":
        show(Document(title="Scores", sections=[Section("", [table, Remarks(lines, word="remark")])]))
        return
    # Names of datasets and files are others': a comment ends with its line.
    lines = [printable(" ".join(line.split())) for line in lines]
    text = printable(TABLE_FORMATS[form](table))
    if form == "latex":
        text += "".join(f"% {line}\n" for line in lines)
    elif lines and form == "markdown":
        text += "\n" + "".join(f"- {line}\n" for line in lines)
    click.echo(text, nl=False)
    if form == "csv":
        # Beside the values, which a program reads.
        for line in lines:
            click.echo(f"remark: {line}", err=True)


def chosen_metrics(found: Sequence[SavedEvaluation], names: str | None) -> list[str]:
    """The columns, in the order of `METRICS`: those that papers print, all, or those named.

    Raises:
        GmosError: none of the results has a metric of that name.
    """
    known = [name for name in METRICS if any(name in one.overall for one in found)]
    if names is None:
        return [name for name in known if METRICS[name].in_papers]
    if names == ALL:
        return known
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise GmosError(f"--metrics {name}: expected {ALL}, or some of {', '.join(known)}")
    return wanted


def score_table(found: Sequence[SavedEvaluation], metrics: Sequence[str]) -> Table[SavedEvaluation]:
    """The table; a dataset that comes again is told by its file."""
    times = Counter(one.dataset for one in found)

    def name(one: SavedEvaluation) -> str:
        return one.dataset if times[one.dataset] == 1 else f"{one.dataset}, {one.file}"

    def value(metric: str, one: SavedEvaluation) -> Value:
        score = one.overall.get(metric)
        if score is None:
            return None
        shown = score * 100 if METRICS[metric].percent else score
        return Cell(f"{shown:.1f}" if METRICS[metric].percent else f"{shown:.2f}", shown)

    columns: list[Column[SavedEvaluation]] = [
        Column("dataset", name),
        *(
            Column(
                METRICS[metric].title, partial(value, metric), ".1f", "%" if METRICS[metric].percent else ""
            )
            for metric in metrics
        ),
        Column("sequences", lambda one: len(one.sequences), "d", shown="room"),
    ]
    return Table(columns=columns, entries=found)


def remarks(found: Sequence[SavedEvaluation]) -> list[str]:
    """What a reader of the table must know, of each result that has something."""
    return [f"{one.dataset} ({one.file}): {line}" for one in found for line in _remarks(one)]


def _remarks(one: SavedEvaluation) -> Iterator[str]:
    other = Counter(clip.dataset for clip in one.made_from.clips if clip.dataset not in (None, one.dataset))
    for dataset, count in other.items():
        yield f"{count} of {len(one.sequences)} sequences were run as {dataset}, and are scored as {one.dataset}"
    yield from (f"{note.text}: {note.count}" for note in one.notes if note.code in SHOWN_NOTES)
