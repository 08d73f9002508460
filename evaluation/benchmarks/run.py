"""Runs the prepared sequences of one benchmark, shows the result and writes the reports asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from ...errors import GmosError
from ..progress_bar import counted
from ..report.environment import available_cores
from ..report.files import write_json
from ..report.html_page import write_page
from ..report.terminal import show
from .benchmarks import BENCHMARKS, BenchmarkRequest, load_benchmark
from .parallel import evaluate_sequences
from .preparation import Job
from .report import evaluation_document, evaluation_json, worst_pictures, write_csv
from .results import Evaluation, SequenceScores, merge_notes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What to write where. `jobs` 0 stands for every core."""

    json: Path | None
    csv: Path | None
    html: Path | None
    worst_frames: int
    jobs: int
    verbose: bool
    skip_missing: bool


def run_benchmark(name: str, request: BenchmarkRequest, options: ReportOptions) -> None:
    """Score every sequence of a benchmark, show the result and write every report that was asked for.

    Raises:
        GmosError: files are missing or unreadable, or there is nothing to score.
    """
    loaded, benchmark = load_benchmark(name, request), BENCHMARKS[name]
    prepared = loaded.prepared
    started = time.monotonic()
    skipped = prepared.missing.sequences
    if skipped:
        for line in prepared.missing.listing():
            click.echo(f"missing: {line}", err=True)
        if not options.skip_missing or not prepared.jobs:
            raise prepared.missing.error(prepared.total)
    workers = options.jobs or available_cores()
    sequences: list[SequenceScores] = _evaluate_with_progress(prepared.jobs, benchmark.evaluate, workers)
    scored = [sequence for sequence in sequences if sequence.metrics]
    if not scored:
        raise GmosError(f"none of {len(sequences)} sequences has an object to score: check the annotations")
    notes = [prepared.notes, {"skipped_sequences": len(skipped)}, *(item.notes for item in sequences)]
    evaluation = Evaluation(
        evaluator=name,
        dataset=request.dataset,
        sources={what: str(path) for what, path in loaded.sources.items()},
        overall=loaded.overall(scored),
        sequences=tuple(scored),
        notes=merge_notes(notes),
        seconds=time.monotonic() - started,
        frame_score=benchmark.frame_score,
    )
    show(evaluation_document(evaluation, by_sequence=options.verbose), wide=options.verbose)
    _write_reports(evaluation, options, merged=loaded.merged, fbms=loaded.fbms)


def _write_reports(evaluation: Evaluation, options: ReportOptions, *, merged: bool, fbms: bool) -> None:
    if options.json is not None:
        write_json(options.json, evaluation_json(evaluation, options.worst_frames))
    if options.csv is not None:
        write_csv(options.csv, evaluation)
    if options.html is not None:
        pictures, legend = worst_pictures(evaluation, options.worst_frames, merged=merged, fbms=fbms)
        write_page(options.html, evaluation_document(evaluation, pictures=pictures, legend=legend))


def _evaluate_with_progress(
    jobs: list[Job], evaluate_sequence: Callable[[Job], SequenceScores], workers: int
) -> list[SequenceScores]:
    with counted("sequences", len(jobs)) as advance:
        return evaluate_sequences(evaluate_sequence, jobs, workers=workers, advance=advance)
