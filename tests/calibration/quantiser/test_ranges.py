"""Histograms over streams, and the thresholds taken from them."""

from __future__ import annotations

import numpy as np
import pytest

from gmos_deploy.calibration.quantiser.ranges import BINS, MagnitudeHistogram

NORMAL = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)


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
