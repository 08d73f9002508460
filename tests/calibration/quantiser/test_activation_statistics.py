"""Statistics over a stream of calls are those of all their rows."""

from __future__ import annotations

import numpy as np

from gmos_deploy.calibration.quantiser.activation_statistics import MOMENT_ROWS, ROWS, ActivationStatistics

RNG = np.random.default_rng(9)
CALLS = [RNG.standard_normal((2, 50, 6)) * np.arange(1, 7) + 300 for _ in range(3)]


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
