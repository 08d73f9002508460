"""Evaluates sequences on several cores, in order, and gathers every sequence's problem before failing."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ...errors import GmosError
from .results import SequenceScores

_SHOWN_PROBLEMS = 3

Job = TypeVar("Job")


def evaluate_sequences(
    evaluate: Callable[[Job], SequenceScores],
    jobs: Sequence[Job],
    *,
    workers: int,
    advance: Callable[[], None],
) -> list[SequenceScores]:
    """Run `evaluate` on every job and return the results in the jobs' order.

    A process holds one sequence at a time. An interrupt ends the processes at once.

    Args:
        evaluate: a module-level function.
        jobs: one per sequence.
        workers: processes; 1 works in this one.
        advance: called after each finished sequence.

    Raises:
        GmosError: sequences that could not be evaluated, the first few named, or a process was killed.
    """
    if workers == 1 or len(jobs) == 1:
        outcomes = []
        for job in jobs:
            outcomes.append(_attempt(evaluate, job))
            advance()
        return _all_or_error(outcomes)
    return _all_or_error(_in_processes(evaluate, jobs, min(workers, len(jobs)), advance))


def _in_processes(
    evaluate: Callable[[Job], SequenceScores],
    jobs: Sequence[Job],
    workers: int,
    advance: Callable[[], None],
) -> list[SequenceScores | str]:
    # Spawned, not forked: the parent has a progress thread, and forking beside threads can deadlock.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
    )
    try:
        futures: list[Future[SequenceScores | str]] = [pool.submit(_attempt, evaluate, job) for job in jobs]
        for future in as_completed(futures):
            future.result()
            advance()
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise GmosError(
            f"one of {workers} evaluation processes was killed, most likely for memory:"
            " try fewer with --jobs 1"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the whole process group; only the parent acts on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _attempt(evaluate: Callable[[Job], SequenceScores], job: Job) -> SequenceScores | str:
    try:
        return evaluate(job)
    except GmosError as problem:
        return str(problem)


def _all_or_error(outcomes: list[SequenceScores | str]) -> list[SequenceScores]:
    problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if len(problems) == 1:
        raise GmosError(problems[0])
    if problems:
        more = f"; {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise GmosError(
            f"{len(problems)} of {len(outcomes)} sequences cannot be evaluated:"
            f" {'; '.join(problems[:_SHOWN_PROBLEMS])}{more}"
        )
    return [outcome for outcome in outcomes if not isinstance(outcome, str)]
