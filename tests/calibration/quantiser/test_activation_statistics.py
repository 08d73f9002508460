"""Statistics over a stream of calls are those of all their rows."""

from __future__ import annotations

import numpy as np
import pytest

from gmos_deploy.calibration.quantiser.activation_statistics import (
    BINS,
    MOMENT_ROWS,
    ROWS,
    ActivationStatistics,
    MagnitudeHistogram,
)

RNG = np.random.default_rng(9)
CALLS = [RNG.standard_normal((2, 50, 6)) * np.arange(1, 7) + 300 for _ in range(3)]

NORMAL = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)


def test_means_moments_and_ends_are_those_of_all_rows() -> None:
    """Also where the means are far larger than what varies; calls may differ in length."""
    statistics = ActivationStatistics(len(CALLS))
    for values in (*CALLS[:2], CALLS[2][:, :20]):
        statistics.add(values)
    rows = np.concatenate([values.reshape(-1, 6) for values in (*CALLS[:2], CALLS[2][:, :20])])
    np.testing.assert_allclose(statistics.mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics.moment(), np.cov(rows.T, bias=True), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(statistics.low, rows.min(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.high, rows.max(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.channels, np.abs(rows).max(0), rtol=1e-6)


def test_the_rows_kept_do_not_grow_with_the_calls() -> None:
    """Evenly over a call: the first row and the last are among them."""
    statistics = ActivationStatistics(4)
    for _ in range(4):
        statistics.add(np.arange(2 * MOMENT_ROWS, dtype=np.float32)[:, None])
    assert len(statistics.rows) == ROWS
    assert statistics.rows.min() == 0
    assert statistics.rows.max() == 2 * MOMENT_ROWS - 1
    np.testing.assert_allclose(statistics.mean, MOMENT_ROWS - 0.5, rtol=1e-4)


def test_values_that_are_not_finite_are_counted_and_spoil_nothing() -> None:
    """They are refused later, by name."""
    statistics = ActivationStatistics(2)
    statistics.add(CALLS[0])
    broken = CALLS[1].copy()
    broken[0, 0, 0] = np.nan
    statistics.add(broken)
    assert statistics.histogram.not_finite == 1
    assert np.isfinite(statistics.moment()).all()


def histogram(*parts: np.ndarray) -> MagnitudeHistogram:
    found = MagnitudeHistogram()
    for part in parts:
        found.add(part)
    return found


def test_a_stream_gives_what_the_whole_gives() -> None:
    """Percentiles of parts that come one after the other, the largest values last."""
    ordered = NORMAL[np.argsort(np.abs(NORMAL))]
    streamed = histogram(*np.array_split(ordered, 20))
    assert streamed.counts.sum() == len(NORMAL)
    for share in (50.0, 99.0, 99.9, 99.99):
        exact = np.percentile(np.abs(NORMAL), share)
        # The range doubles at most past the largest value: a bin is up to twice as wide.
        assert streamed.percentile(share) == pytest.approx(exact, abs=2 * 2 * streamed.largest / BINS)


def test_the_size_does_not_grow_with_the_range() -> None:
    """A value a million times as large as the first ones costs resolution, not memory."""
    found = histogram(NORMAL[:100], np.float32([1e6]))
    assert found.counts.shape == (BINS,)
    assert found.counts.sum() == 101
    assert found.percentile(100) == found.largest == 1e6


def test_zeros_and_nothing_have_no_range() -> None:
    """Dead channels and empty memories."""
    found = histogram(np.zeros((3, 4), np.float16), np.zeros((0, 4), np.float16))
    assert (found.percentile(99.9), found.entropy(), found.counts.sum()) == (0.0, 0.0, 12)


def test_values_that_are_not_finite_are_counted_apart() -> None:
    """They would make every range infinite."""
    found = histogram(np.float32([1, np.inf, np.nan, -2]))
    assert (found.not_finite, found.largest, found.counts.sum()) == (2, 2.0, 2)


def test_the_least_divergence_cuts_a_long_tail() -> None:
    """ONNX Runtime's search: well below a maximum that a few values reach, above the bulk."""
    found = histogram(NORMAL, np.float32([40.0, -35.0]))
    assert 2.0 < found.entropy() < 20.0
    assert found.largest == 40.0
