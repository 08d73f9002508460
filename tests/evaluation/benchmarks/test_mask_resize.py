"""The resize of predicted masks, against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmos_deploy.evaluation.benchmarks.mask_resize import resize_label

torch = pytest.importorskip("torch")
SIDES = st.integers(1, 40)
TIE = 1e-6
"""A few roundings of float32 weights; PyTorch's builds differ there among themselves."""


@given(source=st.tuples(SIDES, SIDES), target=st.tuples(SIDES, SIDES), seed=st.integers(0, 2**16))
@settings(max_examples=300, deadline=None)
def test_equals_torch(source: tuple[int, int], target: tuple[int, int], seed: int) -> None:
    """Every pixel falls on the same side of one half, but for ties that rounding decides."""
    labels = np.random.default_rng(seed).integers(0, 3, source, dtype=np.uint8)
    mask = torch.from_numpy((labels == 2).astype(np.float32))[None, None]
    expected = torch.nn.functional.interpolate(mask, size=target, mode="bilinear", align_corners=False)
    values = expected[0, 0].numpy()
    decided = np.abs(values - 0.5) > TIE
    assert np.array_equal(resize_label(labels, 2, target)[decided], (values > 0.5)[decided])


@pytest.mark.parametrize(("source", "target"), [((240, 427), (480, 854)), ((720, 1280), (480, 854))])
def test_equals_torch_at_video_sizes(source: tuple[int, int], target: tuple[int, int]) -> None:
    """The sizes that occur, ties included."""
    labels = np.random.default_rng(3).integers(0, 2, source, dtype=np.uint8)
    mask = torch.from_numpy(labels.astype(np.float32))[None, None]
    expected = torch.nn.functional.interpolate(mask, size=target, mode="bilinear", align_corners=False)
    assert np.array_equal(resize_label(labels, 1, target), (expected > 0.5)[0, 0].numpy())
