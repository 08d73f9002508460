"""Latencies: known durations come out as they went in."""

from __future__ import annotations

import numpy as np
import pytest

from gmos_deploy.evaluation.profile.latency import Latency, measure, ratio


class FakeClock:
    """A clock that only calls move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_percentiles_of_known_durations() -> None:
    """1 to 100 ms: percentiles, mean, spread and extremes, in milliseconds in the report."""
    samples = tuple(number / 1000 for number in np.random.default_rng(0).permutation(np.arange(1, 101)))
    found = Latency(samples_s=samples).as_json()
    assert found["p50_ms"] == pytest.approx(50.5)
    assert found["p90_ms"] == pytest.approx(90.1)
    assert found["p95_ms"] == pytest.approx(95.05)
    assert found["p99_ms"] == pytest.approx(99.01)
    assert found["mean_ms"] == pytest.approx(50.5)
    assert found["deviation_ms"] == pytest.approx(29.0115, abs=1e-4)
    assert (found["min_ms"], found["max_ms"]) == (pytest.approx(1), pytest.approx(100))
    assert found["samples_ms"] == pytest.approx([sample * 1000 for sample in samples])


def test_known_sleeps_in_turns() -> None:
    """Each competitor gets its own times, warm-up is left out, and the order turns around."""
    clock = FakeClock()
    order: list[str] = []
    durations = {"a": iter([9.0, 1.0, 2.0, 3.0]), "b": iter([9.0, 4.0, 5.0, 6.0])}

    def call(name: str) -> None:
        order.append(name)
        clock.now += next(durations[name])

    found = measure({"a": lambda: call("a"), "b": lambda: call("b")}, warm_up=1, iterations=3, clock=clock)
    assert found["a"].samples_s == (1.0, 2.0, 3.0)
    assert found["b"].samples_s == (4.0, 5.0, 6.0)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]


def test_ratio_is_by_round() -> None:
    """A machine that slows down in one round slows both: the ratio of that round stays."""
    found = ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0])
    assert (found.median, found.least, found.greatest) == (2.0, 2.0, 3.0)


def test_one_sample_has_no_spread() -> None:
    """The standard deviation of one sample is 0, and no sample at all is an error."""
    assert Latency(samples_s=(0.5,)).deviation_s == 0
    with pytest.raises(ValueError, match="at least one sample"):
        Latency(samples_s=())
