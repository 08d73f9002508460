"""An evaluation as JSON and as CSV, each written whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import GmosError
from ...runtime.atomic_file import replaced_at_end
from ..benchmarks.motion_summary import SplitSummary
from ..benchmarks.results import METRICS, NOTE_TEXTS, Evaluation, SequenceScores, finite

RESULT_FILE, OBSERVATIONS_FILE, PAGE_FILE = "result.json", "observations.jsonl", "report.html"
"""What `--report DIR` writes."""

JSON_SCHEMA = "gmos-eval/1"
"""Name and version of the JSON layout; the number rises when a reader of the old one would break."""


def evaluation_json(evaluation: Evaluation, worst: int) -> dict[str, object]:
    """The evaluation as plain values, documented in docs/evaluation.md."""
    return {
        "schema": JSON_SCHEMA,
        "version": __version__,
        "evaluator": evaluation.evaluator,
        "dataset": evaluation.dataset,
        "sources": evaluation.sources,
        "seconds": round(evaluation.seconds, 3),
        "overall": _finite_values(evaluation.overall),
        "notes": _notes(evaluation.notes),
        "frame_score": evaluation.frame_score,
        "worst_frames": [
            {"sequence": sequence.name, "frame": frame.name, "score": frame.score}
            for sequence, frame in evaluation.worst_frames(worst)
        ],
        "sequences": [_sequence(sequence) for sequence in evaluation.sequences],
    }


def _sequence(sequence: SequenceScores) -> dict[str, object]:
    return {
        "name": sequence.name,
        "metrics": _finite_values(sequence.metrics),
        "objects": [
            {"label": item.label, "matched": item.matched, "metrics": _finite_values(item.metrics)}
            for item in sequence.objects
        ],
        "frames": [frame.name for frame in sequence.frames],
        "frame_scores": [frame.score for frame in sequence.frames],
        "notes": _notes(sequence.notes),
    }


def _finite_values(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in metrics.items()}


def _notes(notes: dict[str, int]) -> list[dict[str, object]]:
    return [
        {"code": code, "count": notes[code], "text": NOTE_TEXTS[code]}
        for code in NOTE_TEXTS
        if notes.get(code)
    ]


def write_json(path: Path, document: dict[str, object]) -> None:
    """Write a JSON document.

    Raises:
        GmosError: the file cannot be written.
    """
    text = json.dumps(document, indent=1, allow_nan=False)
    with replaced_at_end(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_json_lines(path: Path, lines: Iterable[object]) -> None:
    """Write a JSON value a line.

    Raises:
        GmosError: the file cannot be written.
    """
    with replaced_at_end(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, schema: str, what: str) -> dict[str, Any]:
    """Read a JSON object of a schema.

    Args:
        path: where it is.
        schema: that it must name.
        what: the file in words, for messages.

    Raises:
        GmosError: it cannot be read, is no JSON, or has another schema.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise GmosError(f"{path} cannot be read ({error}); expected {what}") from error
    given = found.get("schema") if isinstance(found, dict) else None
    if given != schema:
        raise GmosError(f"{path} has schema {given!r}, expected {schema!r}; make it again")
    return dict(found)


def report_directory(directory: Path) -> Path:
    """The directory of --report, if a report can be written there; it need not exist yet.

    Raises:
        GmosError: it is a file.
    """
    if directory.exists() and not directory.is_dir():
        raise GmosError(f"--report {directory} is a file; expected a directory")
    return directory


def write_csv(path: Path, evaluation: Evaluation) -> None:
    """Write one row for the whole, one per sequence and one per object.

    Columns: level (overall, sequence, object), sequence, object, matched, frames, then every metric.

    Raises:
        GmosError: the file cannot be written.
    """
    rows = list(_csv_rows(evaluation))
    found = {name for _, values in rows for name in values}
    metrics = [name for name in METRICS if name in found]
    with (
        replaced_at_end(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["level", "sequence", "object", "matched", "frames", *metrics])
        for cells, values in rows:
            numbers = (finite(values[name]) if name in values else None for name in metrics)
            writer.writerow([*cells, *("" if number is None else number for number in numbers)])


def _csv_rows(evaluation: Evaluation) -> Iterator[tuple[tuple[object, ...], dict[str, float]]]:
    """The leading cells and the metrics of every row."""
    total = sum(len(sequence.frames) for sequence in evaluation.sequences)
    yield ("overall", "", "", "", total), evaluation.overall
    for sequence in evaluation.sequences:
        frames = len(sequence.frames)
        yield ("sequence", sequence.name, "", "", frames), sequence.metrics
        for item in sequence.objects:
            matched = "" if item.matched is None else item.matched
            yield ("object", sequence.name, item.label, matched, frames), item.metrics


def summary_json(source: Path, splits: dict[str, SplitSummary], notes: dict[str, int]) -> dict[str, object]:
    """The summary of a motion-annotation CSV as plain values."""
    return {
        "schema": JSON_SCHEMA,
        "version": __version__,
        "evaluator": "gmos-2k",
        "sources": {"csv": str(source)},
        "rows": sum(split.rows for split in splits.values()),
        "by_split": {
            name: {key: round(v, 3) if isinstance(v, float) else v for key, v in asdict(split).items()}
            for name, split in splits.items()
        },
        "notes": _notes(notes),
    }
