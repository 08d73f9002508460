"""The tables that the runtime computes in NumPy against the reference's in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gmos_deploy.gmos_ref.attention import grid_positions
from gmos_deploy.gmos_ref.attention import rope_table as reference_rope_table
from gmos_deploy.gmos_ref.pi3.dino import DinoV2
from gmos_deploy.gmos_ref.presets import preset
from gmos_deploy.runtime.bundle.tables import (
    bilinear_weights,
    resized_position_embedding,
    rope_table,
)

ROUNDING = 1e-5
"""Of values around 1: weights and sums in float32, and positions that differ in their last bit."""

PUBLISHED = preset("published").pi3
GRIDS = [(27, 48), (48, 27), (37, 37), (20, 64), (4, 6), (1, 90)]


@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_the_position_embedding_is_resized_as_by_the_reference(h: int, w: int) -> None:
    """Enlarged, reduced, both at once, and the stored grid itself."""
    grid = PUBLISHED.dino_grid
    stored = np.random.default_rng(0).standard_normal((grid, grid, 16), dtype=np.float32)
    dino = DinoV2(preset("tiny").pi3)
    dino.grid = grid
    dino.pos_embed = torch.nn.Parameter(
        torch.cat((torch.zeros(1, 1, 16), torch.from_numpy(stored).reshape(1, -1, 16)), dim=1)
    )
    expected = dino.position_embedding(h, w)[0, 1:].reshape(h, w, 16).numpy()
    np.testing.assert_allclose(resized_position_embedding(stored, h, w), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_the_rotation_is_that_of_the_reference(h: int, w: int) -> None:
    """Of the patches; the registers are in the graph."""
    head_dim, base = PUBLISHED.head_dim, PUBLISHED.rope_base
    expected = reference_rope_table(grid_positions(h, w, start=1, device="cpu"), head_dim=head_dim, base=base)
    cos, sin = rope_table(h, w, head_dim=head_dim, base=base)
    assert cos.dtype == sin.dtype == np.float32
    np.testing.assert_allclose(cos.reshape(-1, head_dim), expected.cos.numpy(), rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(sin.reshape(-1, head_dim), expected.sin.numpy(), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("source", "target"), [(480, 1024), (1080, 1024), (1920, 1024), (64, 64), (3, 128)])
def test_the_antialiased_resize_is_pytorchs(source: int, target: int) -> None:
    """Along one axis, enlarging and reducing."""
    line = np.random.default_rng(1).random((source, 2), dtype=np.float32)
    image = torch.from_numpy(line.T.copy())[None, :, :, None].expand(-1, -1, -1, 2)
    resized = F.interpolate(image, (target, 2), mode="bilinear", align_corners=False, antialias=True)
    np.testing.assert_allclose(
        bilinear_weights(source, target) @ line, resized[0, :, :, 0].T.numpy(), rtol=0, atol=ROUNDING
    )
