"""Window indices and strides against the published implementation."""

from __future__ import annotations

from typing import Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.video.sequence import stride_for_fps, window_indices


def test_windows_match_the_published_ones(preprocess_tables: dict[str, Any]) -> None:
    """Every frame is the centre of one window, clipped at both ends."""
    for key, expected in preprocess_tables["windows"].items():
        frames, stride = map(int, key.split(","))
        assert [list(window_indices(i, frames, stride)) for i in range(frames)] == expected


def test_strides_match_the_published_ones(preprocess_tables: dict[str, Any]) -> None:
    """The stride is max(1, int(fps / 8))."""
    for fps, expected in preprocess_tables["stride_for_fps"].items():
        assert stride_for_fps(float(fps)) == expected


def test_a_window_of_another_length_keeps_its_centre() -> None:
    """The window length is the model's."""
    assert window_indices(4, 10, 2, window=3) == (2, 4, 6)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_rates_are_refused(fps: float) -> None:
    """A stride needs a positive finite rate."""
    with pytest.raises(GmosError, match="expected a positive number of frames per second"):
        stride_for_fps(fps)
