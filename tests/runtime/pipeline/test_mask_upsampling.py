"""Masks at the video's size, against the dense form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmos_deploy.runtime.pipeline.mask_upsampling import argmax_labels, argmax_labels_and_masks

TIE_SHARE = 1e-4
"""Pixels that may differ: two logits equal to the last bit, or one on the threshold."""


def dense(logits: np.ndarray, video_hw: tuple[int, int]) -> np.ndarray:
    """Every mask at the video's size in float64, by the definition."""

    def positions(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.maximum((np.arange(size_out) + 0.5) * size_in / size_out - 0.5, 0)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, size_in - 1), at - low

    rows, columns = positions(logits.shape[1], video_hw[0]), positions(logits.shape[2], video_hw[1])
    wide = logits[:, :, columns[0]] * (1 - columns[2]) + logits[:, :, columns[1]] * columns[2]
    return wide[:, rows[0]] * (1 - rows[2])[:, None] + wide[:, rows[1]] * rows[2][:, None]


@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 6),
    source=st.integers(1, 24),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    density=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    threshold=st.sampled_from([0.0, -1.0]),
)
@settings(max_examples=150, deadline=None)
def test_labels_and_masks_equal_the_dense_form(
    seed: int, count: int, source: int, height: int, width: int, density: float, threshold: float
) -> None:
    """Enlarged and shrunk, sparse and dense, for both thresholds of the pipeline."""
    generator = np.random.default_rng(seed)
    logits = generator.standard_normal((count, source, source), dtype=np.float32)
    logits[generator.random(logits.shape) > density] = -3
    labels, masks = argmax_labels_and_masks(logits, (height, width), threshold)
    values = dense(logits.astype(float), (height, width))
    expected = np.where(values.max(axis=0) > threshold, values.argmax(axis=0) + 1, 0)
    allowed = 1 + TIE_SHARE * labels.size
    assert (labels != expected).sum() <= allowed
    assert (masks != (values > 0)).sum() <= allowed
    assert np.array_equal(labels, argmax_labels(logits, (height, width), threshold))


def test_the_first_of_equal_masks_wins() -> None:
    """As arg-max does."""
    logits = np.ones((3, 4, 4), np.float32)
    assert (argmax_labels(logits, (9, 9)) == 1).all()


def test_a_logit_on_the_threshold_is_background() -> None:
    """Strictly above."""
    assert not argmax_labels(np.zeros((2, 4, 4), np.float32), (8, 8)).any()
    assert not argmax_labels(np.full((2, 4, 4), -1, np.float32), (8, 8), -1.0).any()


@pytest.mark.parametrize("video_hw", [(480, 854), (1080, 1920)])
def test_real_sizes_equal_torch(video_hw: tuple[int, int]) -> None:
    """20 smooth masks of 256x256, as the proposer gives them."""
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(3)
    rows, columns = np.mgrid[:256, :256]
    centres = generator.random((20, 3)) * [256, 256, 70]
    logits = np.stack([(r + 10 - np.hypot(rows - y, columns - x)) / 8 for y, x, r in centres]).astype(
        np.float32
    )
    logits += 0.2 * generator.standard_normal(logits.shape, dtype=np.float32)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], video_hw, mode="bilinear", align_corners=False
    )[0]
    best, query = resized.max(dim=0)
    expected = torch.where(best > 0, query + 1, 0).numpy()
    assert (argmax_labels(logits, video_hw) != expected).mean() <= TIE_SHARE / 100
