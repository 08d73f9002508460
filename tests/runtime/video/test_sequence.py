"""Window indices and strides against the published implementation."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.video.sequence import resolve_stride, shown_rate, stride_for_fps, window_indices


def test_windows_match_the_published_ones(preprocess_tables: dict[str, Any]) -> None:
    """Every frame is the centre of one window, clipped at both ends."""
    for key, expected in preprocess_tables["windows"].items():
        frames, stride = map(int, key.split(","))
        assert [list(window_indices(i, frames, stride)) for i in range(frames)] == expected


def test_strides_match_the_published_ones(preprocess_tables: dict[str, Any]) -> None:
    """The stride is max(1, int(fps / 8))."""
    for fps, expected in preprocess_tables["stride_for_fps"].items():
        assert stride_for_fps(float(fps)) == expected


RATES: dict[str, tuple[float, int]] = {
    "24": (24.0, 3),
    "40000/1667": (24.0, 3),  # 24 frames per second whose times are whole milliseconds
    "24000/1001": (23.98, 2),
    "2399/100": (23.99, 2),
    "25": (25.0, 3),
    "30000/1001": (29.97, 3),
    "15999/1000": (16.0, 2),
    "1599/100": (15.99, 1),
    "31996/1000": (32.0, 4),
    "47996/1000": (48.0, 6),
    "48000/1001": (47.95, 5),
    "60000/1001": (59.94, 7),
    "119996/1000": (120.0, 15),
    "120000/1001": (119.88, 14),
    "239999/1000": (240.0, 30),
    "30000": (30000.0, 3750),
    "1/10": (0.1, 1),
    "1/1000": (0.001, 1),
}
"""Average rates of files: what ffmpeg shows, which the published scripts read, and the stride they take."""


@pytest.mark.parametrize("rate", RATES)
def test_the_rate_of_a_file_is_taken_as_ffmpeg_shows_it(rate: str) -> None:
    """With two decimals, so that a hair under a whole number is that number."""
    shown, stride = RATES[rate]
    assert shown_rate(Fraction(rate)) == shown
    assert resolve_stride(None, None, Fraction(rate)) == stride


def test_a_rate_that_is_given_is_not_rounded() -> None:
    """--fps goes into the published formula as it is."""
    assert resolve_stride(23.9999, None, Fraction(24)) == 2
    assert resolve_stride(None, 7, Fraction(24)) == 7


def test_a_window_of_another_length_keeps_its_centre() -> None:
    """The window length is the model's."""
    assert window_indices(4, 10, 2, window=3) == (2, 4, 6)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_rates_are_refused(fps: float) -> None:
    """A stride needs a positive finite rate."""
    with pytest.raises(GmosError, match="expected a positive number of frames per second"):
        stride_for_fps(fps)
