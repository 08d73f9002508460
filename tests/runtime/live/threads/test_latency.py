"""Percentiles in bins: within half a hundredth of the true ones, and in fixed memory."""

from __future__ import annotations

import numpy as np
import pytest

from gmos_deploy.runtime.live.threads.latency import Latencies


def test_percentiles() -> None:
    """As NumPy's, up to the width of a bin."""
    values = np.random.default_rng(3).lognormal(-3, 1, 20_000)
    latencies = Latencies()
    for value in values:
        latencies.add(float(value))
    found = latencies.percentiles_ms()
    assert found is not None
    for share in (50, 90, 99):
        true_ms = 1e3 * float(np.quantile(values, share / 100, method="inverted_cdf"))
        assert found[f"p{share}"] == pytest.approx(true_ms, rel=0.006)
    assert found["max"] == pytest.approx(1e3 * values.max(), abs=0.01)
    assert latencies.count == 20_000


def test_extremes() -> None:
    """Nothing at all, nothing to measure, and hours."""
    latencies = Latencies()
    assert latencies.percentiles_ms() is None
    latencies.add(0.0)
    assert latencies.percentiles_ms() == {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
    latencies.add(1e5)
    found = latencies.percentiles_ms()
    assert found is not None
    assert found["p50"] == pytest.approx(0.01)
    assert found["p99"] == pytest.approx(1e7, rel=0.01)
    assert found["max"] == 1e8
