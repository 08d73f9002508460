"""The resize of mask prompts, against PyTorch's."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from gmos_deploy.runtime.pipeline.prompt_mask import resize_prompt

LENGTHS = st.one_of(
    st.integers(1, 300), st.sampled_from([32, 64, 96, 128, 160, 192, 256, 320, 384, 480, 512])
)
KINDS = ("rectangle", "noise", "blocks", "stripes", "checks", "full", "empty")

TIE = 1e-6
"""A share nearer to a half than this is decided by the order of a float32 sum, which PyTorch's build has."""

needs_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="the order of PyTorch's sums is that of its x86 build",
)


def make_mask(kind: str, hw: tuple[int, int], seed: int) -> NDArray[np.bool_]:
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: hw[0], : hw[1]]
    period = draw.integers(1, 5)
    if kind == "rectangle":
        top, bottom = sorted(draw.integers(0, hw[0] + 1, 2))
        left, right = sorted(draw.integers(0, hw[1] + 1, 2))
        return (y >= top) & (y < bottom) & (x >= left) & (x < right)
    if kind == "noise":
        return draw.random(hw) < draw.choice([0.02, 0.5, 0.9])
    if kind == "blocks":
        coarse = draw.random((hw[0] // 8 + 1, hw[1] // 8 + 1)) < 0.5
        return coarse.repeat(8, 0).repeat(8, 1)[: hw[0], : hw[1]]
    if kind == "stripes":
        return (y + x) // period % 2 == 0
    if kind == "checks":
        return (y // period + x // period) % 2 == 0
    return np.full(hw, kind == "full")


def torch_shares(mask: NDArray[np.bool_], side_px: int) -> NDArray[np.float32]:
    image = torch.from_numpy(mask).float()[None, None]
    size = (side_px, side_px)
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)[0, 0].numpy()


@needs_x86
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    hw=st.tuples(LENGTHS, LENGTHS),
    side_px=st.sampled_from([32, 64, 128]),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pixel_equals_pytorch(hw: tuple[int, int], side_px: int, kind: str, seed: int) -> None:
    """Up and down, by whole, simple and odd ratios, ties at a half included."""
    mask = make_mask(kind, hw, seed)
    resized = resize_prompt(mask, side_px)
    assert resized.dtype == np.uint8
    assert resized.shape == (side_px, side_px)
    assert np.array_equal(resized, torch_shares(mask, side_px) >= 0.5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(hw=st.tuples(LENGTHS, LENGTHS), kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
def test_pixels_off_a_tie_equal_pytorch_on_every_processor(hw: tuple[int, int], kind: str, seed: int) -> None:
    """Where the order of sums cannot decide, nothing differs."""
    mask = make_mask(kind, hw, seed)
    shares = torch_shares(mask, 64)
    differs = resize_prompt(mask, 64) != (shares >= 0.5)
    assert not differs[np.abs(shares - 0.5) > TIE].any()


@needs_x86
@pytest.mark.parametrize("hw", [(480, 854), (1080, 1920), (720, 1280)])
def test_a_disc_in_a_video_equals_pytorch_at_published_size(hw: tuple[int, int]) -> None:
    """Real frame sizes to 1024 x 1024."""
    y, x = np.mgrid[: hw[0], : hw[1]]
    mask = np.hypot(y - hw[0] / 2, x - hw[1] / 3) < hw[0] / 4
    assert np.array_equal(resize_prompt(mask, 1024), torch_shares(mask, 1024) >= 0.5)


def test_a_mask_of_the_image_size_is_kept() -> None:
    """The resize is the identity there."""
    mask = make_mask("noise", (64, 64), 3)
    assert np.array_equal(resize_prompt(mask, 64), mask)


def test_a_view_of_a_label_map_is_as_good_as_a_copy() -> None:
    """Masks need not lie in one piece."""
    mask = make_mask("blocks", (90, 120), 5)
    assert np.array_equal(resize_prompt(mask[::2, ::-1], 64), resize_prompt(mask[::2, ::-1].copy(), 64))


def test_a_single_pixel_can_vanish() -> None:
    """A share under a half leaves an empty prompt, as in the package."""
    mask = np.zeros((480, 640), np.bool_)
    mask[100, 100] = True
    assert not resize_prompt(mask, 64).any()
