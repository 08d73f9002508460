"""Sequences on several processes."""

from __future__ import annotations

import os
from functools import partial

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.benchmarks.results import SequenceScores
from gmos_deploy.evaluation.benchmarks.run import evaluate_sequences


def test_problems_are_gathered() -> None:
    """All sequences are tried; the first three problems are shown."""
    done: list[int] = []

    def evaluate(number: int) -> SequenceScores:
        if number != 2:
            raise GmosError(f"sequence {number} is broken")
        return SequenceScores(name=str(number), metrics={})

    with pytest.raises(
        GmosError,
        match=r"^4 of 5 sequences .*: sequence 0 is broken; sequence 1 .*; sequence 3 .*; 1 more$",
    ):
        evaluate_sequences(
            [partial(evaluate, number) for number in range(5)], workers=1, advance=lambda: done.append(1)
        )
    assert len(done) == 5


def test_other_errors_are_not_swallowed() -> None:
    """A defect stays a defect."""

    def evaluate() -> SequenceScores:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate_sequences([evaluate], workers=1, advance=lambda: None)


def test_a_killed_process_is_explained() -> None:
    """The system kills for memory; the message says what to try."""
    with pytest.raises(GmosError, match=r"one of 2 evaluation processes was killed.*--jobs 1"):
        evaluate_sequences([partial(os._exit, 9)] * 2, workers=2, advance=lambda: None)
