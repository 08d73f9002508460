"""Runs the prepared sequences of one benchmark, on several cores, shows the result and writes the reports asked for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import Thread
from typing import Any

import click

from ...errors import GmosError, printable
from ...runtime.host_memory import usable_cores
from ...runtime.results.completion import recorded_origins
from ...runtime.results.png_writer import MASKS
from ..progress_bar import counted
from ..report.environment import environment
from ..report.files import write_json
from ..report.html_page import write_page
from ..report.terminal import show
from .benchmarks import BenchmarkRequest, Job, load_benchmark
from .frame_pictures import worst_pictures
from .report import evaluation_document, evaluation_json, write_csv
from .results import Evaluation, SequenceScores

SHOWN_PROBLEMS = 3

(GMOS_S_FOLDER,) = MASKS.folders["gmos-s"].values()
"""Of label maps with one foreground."""


def run_benchmark(
    name: str,
    *,
    json: Path | None,
    csv: Path | None,
    html: Path | None,
    worst_frames: int,
    jobs: int,
    verbose: bool,
    skip_missing: bool,
    **request: Any,
) -> None:
    """Score every sequence of a benchmark, show the result and write every report that was asked for.

    Options as gmos-eval's; those of `BenchmarkRequest` are handed on.

    Raises:
        GmosError: files are missing or unreadable, or there is nothing to score.
    """
    prepared = load_benchmark(name, BenchmarkRequest(**request))
    started = time.monotonic()
    skipped = prepared.missing.sequences
    if skipped:
        for line in prepared.missing.listing():
            click.echo(printable(f"missing: {line}"), err=True)
        if not skip_missing or not prepared.jobs:
            raise prepared.missing.error(prepared.total)
    with counted("sequences", len(prepared.jobs)) as advance:
        sequences = evaluate_sequences(
            list(prepared.jobs.values()), workers=jobs or usable_cores(), advance=advance
        )
    scored = [sequence for sequence in sequences if sequence.metrics]
    if not scored:
        raise GmosError(f"none of {len(sequences)} sequences has an object to score: check the annotations")
    dataset, predictions = request["dataset"], prepared.sources["predictions"]
    made_from = recorded_origins(predictions, prepared.jobs)
    counts = prepared.notes + Counter(
        skipped_sequences=len(skipped),
        run_for_another_dataset=sum(clip.dataset not in (None, dataset) for clip in made_from.clips),
        foreground_as_objects=0 if prepared.merged or predictions.name != GMOS_S_FOLDER else len(scored),
    )
    evaluation = Evaluation(
        evaluator=name,
        dataset=dataset,
        sources={what: str(path) for what, path in prepared.sources.items()},
        overall=prepared.overall(scored),
        sequences=tuple(scored),
        notes=sum((sequence.notes for sequence in sequences), counts),
        seconds=time.monotonic() - started,
        frame_score=prepared.frame_score,
        made_from=made_from,
        environment=environment(),
    )
    show(evaluation_document(evaluation, by_sequence=verbose), wide=verbose)
    if json is not None:
        write_json(json, evaluation_json(evaluation, worst_frames))
    if csv is not None:
        write_csv(csv, evaluation)
    if html is not None:
        pictures, legend = worst_pictures(
            evaluation, worst_frames, merged=prepared.merged, fbms=prepared.fbms
        )
        write_page(html, evaluation_document(evaluation, pictures=pictures, legend=legend))


def evaluate_sequences(
    jobs: Sequence[Job], *, workers: int, advance: Callable[[], None]
) -> list[SequenceScores]:
    """Run every job and return the results in their order.

    A process holds one sequence at a time. An interrupt ends the processes at once.

    Args:
        jobs: one per sequence.
        workers: processes; 1 works in this one.
        advance: called after each finished sequence.

    Raises:
        GmosError: sequences that could not be evaluated, the first few named, or a process was killed.
    """
    outcomes: list[SequenceScores | str] = []
    if workers == 1 or len(jobs) == 1:
        for job in jobs:
            outcomes.append(_attempt(job))
            advance()
    else:
        outcomes = _in_processes(jobs, min(workers, len(jobs)), advance)
    problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if len(problems) == 1:
        raise GmosError(problems[0])
    if problems:
        more = f"; {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise GmosError(
            f"{len(problems)} of {len(outcomes)} sequences cannot be evaluated:"
            f" {'; '.join(problems[:SHOWN_PROBLEMS])}{more}"
        )
    return [outcome for outcome in outcomes if not isinstance(outcome, str)]


def _in_processes(
    jobs: Sequence[Job], workers: int, advance: Callable[[], None]
) -> list[SequenceScores | str]:
    # Spawned, not forked: the parent has a progress thread, and forking beside threads can deadlock.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    )
    try:
        futures = [pool.submit(_attempt, job) for job in jobs]
        for future in as_completed(futures):
            future.result()
            advance()
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise GmosError(
            f"one of {workers} evaluation processes was killed, most likely for memory:"
            " try fewer with --jobs 1"
        ) from None
    # An interruption among others.
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Have this process end with its parent, however that ends, and on nothing that reaches a whole terminal."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def end() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end, daemon=True).start()


def _attempt(job: Job) -> SequenceScores | str:
    try:
        return job()
    except GmosError as problem:
        return str(problem)
