"""The fast overlay against the published one and a naive one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from gmos_deploy.runtime.results.overlay import davis_palette, overlay


def naive_overlay(rgb: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The definition, pixel by pixel, in floating point."""
    height, width = labels.shape
    drawn = rgb.copy()
    palette = davis_palette()
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if not label:
                continue
            drawn[y, x] = (0.5 * rgb[y, x] + 0.5 * palette[label]).astype(np.uint8)
            around = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
            inside = [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]
            if any(labels[v, u] != label for v, u in inside):
                drawn[y, x] = 255
    return drawn


def test_overlay_matches_the_published_one(preprocess_arrays: dict[str, NDArray[Any]]) -> None:
    """Bit for bit."""
    frames, labels = preprocess_arrays["frames"], preprocess_arrays["overlay_labels"]
    drawn = np.stack([overlay(*pair) for pair in zip(frames, labels, strict=True)])
    np.testing.assert_array_equal(drawn, preprocess_arrays["overlay"])


@given(
    labels=hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.sampled_from([0, 0, 0, 1, 2, 255]),
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_overlay_matches_the_definition(labels: NDArray[np.uint8], seed: int) -> None:
    """Every small label map, those that touch the border or fill the image among them."""
    rgb = np.random.default_rng(seed).integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(overlay(rgb, labels), naive_overlay(rgb, labels))


@pytest.mark.parametrize("fortran", [False, True])
def test_inputs_stay_as_they_are(fortran: bool) -> None:
    """The frame is copied, whatever its memory layout."""
    labels = np.zeros((12, 10), dtype=np.uint8)
    labels[3:6, 2:9] = 3
    rgb = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    if fortran:
        rgb, labels = np.asfortranarray(rgb), np.asfortranarray(labels)
    before = rgb.copy()
    drawn = overlay(rgb, labels)
    np.testing.assert_array_equal(rgb, before)
    np.testing.assert_array_equal(drawn, naive_overlay(before, labels))


def test_without_labels_the_frame_is_unchanged() -> None:
    """Empty masks are the rule in many videos."""
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    drawn = overlay(rgb, np.zeros((4, 5), dtype=np.uint8))
    np.testing.assert_array_equal(drawn, rgb)
    assert drawn is not rgb


def test_palette_matches_the_published_one(preprocess_arrays: dict[str, NDArray[Any]]) -> None:
    """All 256 colours."""
    palette = davis_palette()
    assert palette.dtype == np.uint8
    np.testing.assert_array_equal(palette, preprocess_arrays["palette"])


def test_colours_are_all_different() -> None:
    """A mask can be read back from its colours."""
    assert len(np.unique(davis_palette(), axis=0)) == 256
