"""The report of an evaluation: its document, its JSON and its CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ... import __version__
from ...errors import as_cell
from ...runtime.files.atomic_file import replaced_at_end
from ...runtime.files.made_from import KEY
from ..report import document as doc
from ..report.document import Cell, Column, Section, Table
from ..report.files import write_json
from ..report.origins import origins_section
from ..report.terminal import show
from .results import METRIC_FORM, METRICS, NOTE_TEXTS, WORST_PER_SEQUENCE, Evaluation, note_lines
from .time_annotation import (
    SplitSummary,
    read_time_annotation,
    summarise_time_annotation,
    time_annotation_notes,
)

JSON_SCHEMA = "gmos-eval/1"
"""Name and version of the JSON layout; the number rises when a reader of the old one would break."""

FIRST_METRICS = 2
"""Metrics that a phone has room for."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A row of the tables and of the CSV: the whole, a sequence or an object; `scores` are those of its frames."""

    level: str
    sequence: str
    frames: int
    metrics: dict[str, float]
    label: int | None = None
    matched: int | None = None
    scores: tuple[float | None, ...] = ()


def score_rows(evaluation: Evaluation) -> Iterator[ScoreRow]:
    """The whole, then each sequence with its objects."""
    total = sum(len(sequence.frames) for sequence in evaluation.sequences)
    yield ScoreRow("overall", "", total, evaluation.overall)
    for sequence in evaluation.sequences:
        scores = tuple(frame.score for frame in sequence.frames)
        yield ScoreRow("sequence", sequence.name, len(scores), sequence.metrics, scores=scores)
        for item in sequence.objects:
            yield ScoreRow("object", sequence.name, len(scores), item.metrics, item.label, item.matched)


def evaluation_document(
    evaluation: Evaluation,
    *,
    by_sequence: bool = True,
    pictures: Sequence[tuple[bytes, str]] = (),
    legend: str = "",
) -> doc.Document:
    """The document of an evaluation.

    Args:
        evaluation: what to show.
        by_sequence: with a row of every sequence and object.
        pictures: of the worst frames, with their captions.
        legend: what their colours mean.
    """
    frames = sum(len(sequence.frames) for sequence in evaluation.sequences)
    overall = list(evaluation.overall.items())
    metrics: list[Column[tuple[str, float]]] = [
        Column("metric", lambda entry: METRICS[entry[0]].title),
        Column("value", lambda entry: _metric(*entry), METRIC_FORM),
        Column("", lambda entry: _direction(entry[0])),
    ]
    remarks: list[doc.Block] = [doc.Remarks(note_lines(evaluation.notes), word="note")]
    if not note_lines(evaluation.notes):
        remarks = [doc.Text("Nothing was left out, resized or ignored.")]
    worst: list[doc.Block] = [
        doc.Text(f"{legend} At most {WORST_PER_SEQUENCE} of a sequence."),
        doc.Pictures(pictures=pictures),
    ]
    return doc.Document(
        title=f"{evaluation.evaluator} on {evaluation.dataset} (sequences: {len(evaluation.sequences)}, "
        f"frames: {frames})",
        lead=f"{evaluation.seconds:.1f} s, gmos-deploy {__version__}",
        cards=[
            doc.Card(METRICS[name].title, _metric(name, value).text, _direction(name))
            for name, value in overall
        ],
        remarks=Section("Remarks", remarks),
        sections=[
            Section("", [Table(columns=metrics, entries=overall)], "terminal"),
            *([_sequences(evaluation)] if by_sequence else []),
            *([Section("Worst frames", worst)] if pictures else []),
            Section("Scored", [doc.Facts(list(evaluation.sources.items()))]),
            origins_section(evaluation.made_from),
        ],
        environment=evaluation.environment,
    )


def _sequences(evaluation: Evaluation) -> Section:
    """A row of each sequence, and in a second table of each object where a sequence has several."""
    rows = [row for row in score_rows(evaluation) if row.level == "sequence"]
    several = {sequence.name for sequence in evaluation.sequences if len(sequence.objects) > 1}
    objects = [row for row in score_rows(evaluation) if row.level == "object" and row.sequence in several]
    names = [name for name in METRICS if any(name in row.metrics for row in rows)]
    largest = {name: max(row.metrics.get(name, 0.0) for row in rows) for name in names}

    def metric(name: str, row: ScoreRow) -> Cell:
        return _metric(name, row.metrics.get(name), None if row.label is not None else largest[name])

    def frame_scores(row: ScoreRow) -> Cell:
        known = [score for score in row.scores if score is not None]
        return Cell("", min(known, default=-1.0), drawing=doc.Spark(row.scores))

    columns: list[Column[ScoreRow]] = [
        Column(METRICS[name].title, partial(metric, name), METRIC_FORM, "", _shown(number))
        for number, name in enumerate(names)
    ]
    of_sequences: list[Column[ScoreRow]] = [
        Column("sequence", lambda row: row.sequence),
        Column("frames", lambda row: row.frames, "d", "", "room"),
        *columns,
        Column("frame scores", frame_scores, "g", shown="page"),
    ]
    of_objects: list[Column[ScoreRow]] = [
        Column("object", lambda row: f"{row.sequence}, object {row.label}"),
        Column("matched to", lambda row: "nothing" if row.matched is None else f"prediction {row.matched}"),
        *columns,
    ]
    blocks: list[doc.Block] = [
        doc.Text(f"Frame score: {evaluation.frame_score}."),
        Table(columns=of_sequences, entries=rows),
        Table(columns=of_objects, entries=objects, folded="Objects"),
    ]
    return Section("Sequences", blocks)


def _shown(number: int) -> doc.Shown:
    return "always" if number < FIRST_METRICS else "room"


def _direction(name: str) -> str:
    return "" if METRICS[name].higher_is_better else "lower is better"


def _metric(name: str, value: float | None, largest: float | None = None) -> Cell:
    """A metric, with its bar where the table's largest is given."""
    if value is None or not math.isfinite(value):
        return Cell(doc.MISSING, -1.0)
    metric, text = METRICS[name], f"{value:{METRIC_FORM}}"
    if largest is None or metric.bar == "none":
        return Cell(text, value)
    full = 1.0 if metric.bar == "unit" else largest
    share = value / full if full > 0 else 0.0
    return Cell(text, value, drawing=doc.Bar(share, f"{metric.title} {text}", good=metric.higher_is_better))


def show_summary(csv: Path, json: Path | None) -> None:
    """Print what a motion-annotation CSV holds, one row per split, and write it as JSON if a file is named.

    Raises:
        GmosError: the CSV cannot be used, or the file cannot be written.
    """
    rows = read_time_annotation(csv)
    splits, notes = summarise_time_annotation(rows), time_annotation_notes(rows)
    columns: list[Column[tuple[str, SplitSummary]]] = [
        Column("split", lambda entry: entry[0]),
        Column("rows", lambda entry: entry[1].rows, "d"),
        Column("moving", lambda entry: entry[1].rows_with_motion, "d", "rows"),
        Column("annotated frames", lambda entry: entry[1].ann_frames, "d"),
        Column("objects", lambda entry: entry[1].objects, "d"),
        Column("intervals", lambda entry: entry[1].intervals, "d"),
        Column("moving %", lambda entry: entry[1].motion_pct_object_mean, ".1f", "mean of objects"),
        Column("moving %", lambda entry: entry[1].motion_pct_object_mean_no_union, ".1f", "as published"),
    ]
    document = doc.Document(
        title="gmos-2k",
        sections=[Section("", [Table(columns=columns, entries=list(splits.items()))])],
        remarks=Section("Remarks", [doc.Remarks(note_lines(notes), word="note")]),
    )
    show(document)
    if json is not None:
        values = {
            "schema": JSON_SCHEMA,
            "version": __version__,
            "evaluator": "gmos-2k",
            "sources": {"csv": str(csv)},
            "rows": len(rows),
            "by_split": {
                name: {key: round(v, 3) if isinstance(v, float) else v for key, v in asdict(split).items()}
                for name, split in splits.items()
            },
            "notes": _notes(notes),
        }
        write_json(json, values)


def evaluation_json(evaluation: Evaluation, worst: int) -> dict[str, object]:
    """The evaluation as plain values, documented in docs/evaluation.md."""
    return {
        "schema": JSON_SCHEMA,
        "version": __version__,
        "evaluator": evaluation.evaluator,
        "dataset": evaluation.dataset,
        "sources": evaluation.sources,
        "seconds": round(evaluation.seconds, 3),
        "overall": evaluation.overall,
        "notes": _notes(evaluation.notes),
        KEY: evaluation.made_from,
        "environment": evaluation.environment,
        "frame_score": evaluation.frame_score,
        "worst_frames": [
            {"sequence": sequence.name, "frame": frame.name, "score": frame.score}
            for sequence, frame in evaluation.worst_frames(worst)
        ],
        "sequences": [
            {
                "name": sequence.name,
                "metrics": sequence.metrics,
                "objects": sequence.objects,
                "frames": [frame.name for frame in sequence.frames],
                "frame_scores": [frame.score for frame in sequence.frames],
                "notes": _notes(sequence.notes),
            }
            for sequence in evaluation.sequences
        ],
    }


def _notes(notes: Mapping[str, int]) -> list[dict[str, object]]:
    return [
        {"code": code, "count": notes[code], "text": text}
        for code, text in NOTE_TEXTS.items()
        if notes.get(code)
    ]


def write_csv(path: Path, evaluation: Evaluation) -> None:
    """Write one row for the whole, one per sequence and one per object.

    Columns: level (overall, sequence, object), sequence, object, matched, frames, then every metric.

    Raises:
        GmosError: the file cannot be written.
    """
    rows = list(score_rows(evaluation))
    found = {name for row in rows for name in row.metrics}
    metrics = [name for name in METRICS if name in found]
    with (
        replaced_at_end(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["level", "sequence", "object", "matched", "frames", *metrics])
        for row in rows:
            values = (row.metrics.get(name, math.nan) for name in metrics)
            # None is an empty cell.
            numbers = (value if math.isfinite(value) else None for value in values)
            writer.writerow([row.level, as_cell(row.sequence), row.label, row.matched, row.frames, *numbers])
