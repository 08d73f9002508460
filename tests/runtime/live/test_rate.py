"""A measured rate: over enough frames, lost ones counted, and settled on multiples of 8."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmos_deploy.runtime.live.rate import measured_rate, settled_rate
from gmos_deploy.runtime.video.sequence import stride_for_fps


@pytest.mark.parametrize(
    ("measured", "settled"),
    [
        (23.99, 24.0),
        (24.01, 24.0),
        (23.53, 24.0),
        (23.51, 23.51),
        (24.47, 24.0),
        (24.49, 24.49),
        (15.7, 16.0),
        (29.97, 29.97),
        (30.0, 30.0),
        (7.85, 8.0),
        (0.05, 0.05),
        (120.5, 120.0),
    ],
)
def test_rates_near_a_multiple_of_8(measured: float, settled: float) -> None:
    """Within 2 % they are it, so that jitter does not decide the stride."""
    assert settled_rate(measured) == settled


def test_jitter_does_not_decide_the_stride() -> None:
    """A camera of 24 frames a second has stride 3, whether it is measured a little above or below."""
    assert {stride_for_fps(settled_rate(fps)) for fps in (23.9, 23.99, 24.0, 24.01, 24.1)} == {3}


@pytest.mark.parametrize("fps", [5.0, 8.0, 24.0, 29.97, 60.0, 240.0])
def test_a_second_is_measured(fps: float) -> None:
    """No fewer intervals than six, no more than sixty."""
    times = [i / fps for i in range(1000)]
    needed = next(count for count in range(1000) if measured_rate(times[:count]) is not None)
    assert needed - 1 == min(60, max(6, int(np.ceil(fps - 1e-9))))
    assert measured_rate(times[:needed]) == pytest.approx(fps)


def test_a_slow_source_is_not_waited_for_long() -> None:
    """Two intervals are enough after five seconds."""
    assert measured_rate([0.0, 4.0]) is None
    assert measured_rate([0.0, 4.0, 8.0]) == pytest.approx(0.25)


def test_lost_frames_count() -> None:
    """A gap of two intervals is two."""
    times = [i / 20 for i in range(40) if i % 7]
    assert measured_rate(times) == pytest.approx(20)


def test_too_few_frames() -> None:
    """None, unless no more will come; one alone tells nothing."""
    assert measured_rate([]) is None
    assert measured_rate([1.0], ended=True) is None
    assert measured_rate([1.0, 1.0], ended=True) is None
    assert measured_rate([1.0, 1.1]) is None
    assert measured_rate([1.0, 1.1], ended=True) == pytest.approx(10)


@given(fps=st.floats(1, 120), seed=st.integers(0, 1000))
def test_jitter_is_averaged(fps: float, seed: int) -> None:
    """Times that are off by a tenth of an interval give a rate that is off by little."""
    offsets = np.random.default_rng(seed).uniform(-0.1, 0.1, 200)
    times = [float(time) for time in (np.arange(200) + offsets) / fps]
    assert measured_rate(times, ended=True) == pytest.approx(fps, rel=2e-3)
