"""Deterministic weights: drawn by key, scaled by rank, filled in place or onto the meta device."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from torch import nn

from gmos_deploy.gmos_ref.checkpoints.stand_in import (
    deterministic_state,
    deterministic_tensor,
    fill_deterministic,
)
from gmos_deploy.gmos_ref.gmos.proposer import GmosProposer
from gmos_deploy.gmos_ref.pi3.encoder import IMAGENET_MEAN, Pi3Encoder
from gmos_deploy.gmos_ref.presets import TINY


@pytest.mark.parametrize(
    ("key", "shape", "scale", "offset"),
    [
        ("a.norm.weight", (7,), 0.1, 1.0),
        ("a.ls1.gamma", (7,), 0.1, 1.0),
        ("a.bias", (7,), 0.1, 0.0),
        ("a.weight", (4, 3, 2), 6**-0.5, 0.0),
        ("cls_token", (1, 1, 5), 0.5, 0.0),
    ],
)
def test_rule(key: str, shape: tuple[int, ...], scale: float, offset: float) -> None:
    """Normals seeded with the key's CRC-32, scaled by rank and the last part of the key."""
    normals = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
    expected = torch.from_numpy(normals) * scale + offset
    torch.testing.assert_close(deterministic_tensor(key, shape), expected, rtol=1e-6, atol=0)


def test_scalar() -> None:
    """A scalar is one float64 draw, rounded."""
    drawn = np.random.default_rng(zlib.crc32(b"motion_bias")).standard_normal()
    assert deterministic_tensor("motion_bias", ()).item() == np.float32(drawn)


def test_meta_and_real_modules_get_the_same() -> None:
    """Filling a module without storage and one in place give the state that the rule says."""
    real = GmosProposer(TINY.proposer)
    with torch.device("meta"):
        empty = GmosProposer(TINY.proposer)
    expected = deterministic_state(real)
    for module in (real, empty):
        fill_deterministic(module)
        assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
        assert not any(parameter.requires_grad for parameter in module.parameters())
        given = module.state_dict()
        assert given.keys() == expected.keys()
        assert all(torch.equal(given[key], expected[key]) for key in expected)
    assert torch.equal(real.trans_encoder.rope.cos, empty.trans_encoder.rope.cos)


def test_statistics_and_counters_keep_their_values() -> None:
    """Normalisation statistics and integer buffers are not drawn."""
    with torch.device("meta"):
        encoder = Pi3Encoder(TINY.pi3)
    fill_deterministic(encoder)
    assert encoder.image_mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    norm = nn.BatchNorm1d(2)
    fill_deterministic(norm)
    assert norm.num_batches_tracked.item() == 0
    assert deterministic_state(norm)["num_batches_tracked"].dtype == torch.int64


def test_in_place_keeps_dtype() -> None:
    """A half-precision module keeps its precision."""
    layer = nn.Linear(3, 2).half()
    fill_deterministic(layer)
    assert torch.equal(layer.weight, deterministic_tensor("weight", (2, 3)).half())
