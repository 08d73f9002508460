"""Initial weights of the nano Pi3 encoder that favour comparing a place with itself over time."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gmos_deploy.gmos_ref.pi3.encoder import Pi3Encoder
from gmos_deploy.gmos_ref.pi3.vit_block import VitBlock
from gmos_deploy.gmos_ref.sam2.model import FeaturePredictor

CHANGE_SHARE = 0.375
"""Of the token channels that start as copies, from which the first window block takes the mean over time."""

ENERGY_SHARE = 0.125
"""Of the token channels that start empty, and into which that block puts the size of what changes."""

CHROMA_SHARE = 0.3
"""Of the filters that start as colour differences; the others start as brightness."""

POSITION_GAIN = 4.2
"""Of queries and keys that match positions: a neighbour then weighs a seventieth of the place itself."""

_LUMA = np.array([0.299, 0.587, 0.114])
_CHROMA = np.array([[0.6, -0.5, -0.1], [-0.2, -0.4, 0.6]])


def initialise_pi3(pi3: Pi3Encoder, seed: int) -> None:
    """Fill an encoder: cosine patches, small random blocks, window blocks that match positions."""
    generator = torch.Generator().manual_seed(seed)
    for module in pi3.modules():
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(0, 0.7 / math.sqrt(module.in_features), generator=generator)
            module.bias.data.zero_()
    for tokens in (pi3.encoder.cls_token, pi3.encoder.register_tokens, pi3.register_token):
        tokens.data.normal_(0, 0.5, generator=generator)
    projection = pi3.encoder.patch_embed.proj
    change = int(CHANGE_SHARE * pi3.config.dim)
    energy = int(ENERGY_SHARE * pi3.config.dim)
    content = _cosine_patches(pi3.config.dim - change - energy, pi3.config.patch_px)
    copies = _cosine_patches(change, pi3.config.patch_px)
    projection.weight.data.copy_(torch.cat((content, torch.zeros_like(content[:energy]), copies)))
    projection.bias.data.zero_()
    for block in pi3.encoder.blocks:
        block.ls1.gamma.data.fill_(0.15)
        block.ls2.gamma.data.fill_(0.15)
    for i, block in enumerate(pi3.decoder):
        block.ls1.gamma.data.fill_(0.05 if i == 0 else 0.5)
        block.ls2.gamma.data.fill_(0.05 if i == 0 else 0.5)
        if i % 2:
            _match_positions(block, generator)
            block.ls1.gamma.data.fill_(1.0)
    _subtract_mean(pi3.decoder[1], change)
    _measure_change(pi3.decoder[1], change, energy)


def _cosine_patches(channels: int, patch_px: int) -> Tensor:
    """Filters (C, 3, P, P): the lowest cosine frequencies of brightness, then of two colour differences."""
    chroma = int(channels * CHROMA_SHARE) // 2
    filters: list[NDArray[np.float64]] = []
    for mix, count in ((_LUMA, channels - 2 * chroma), (_CHROMA[0], chroma), (_CHROMA[1], chroma)):
        order = sorted(
            ((u, v) for u in range(patch_px) for v in range(patch_px)),
            key=lambda f: (f[0] ** 2 + f[1] ** 2, f),
        )
        for u, v in order[:count]:
            wave = np.outer(_cosine(u, patch_px), _cosine(v, patch_px))
            # Natural pictures fall off with frequency: this evens the channels out.
            filters.append(mix[:, None, None] * wave * (0.35 + 0.45 * math.hypot(u, v)) / 3)
    return torch.from_numpy(np.stack(filters)).float()


def _subtract_mean(block: VitBlock, change: int) -> None:
    """The last `change` channels become what differs from their mean over the window at the same place."""
    attention = block.attn
    dim = attention.proj.in_features
    values, out = attention.qkv.weight.data[2 * dim :], attention.proj.weight.data
    values[:change] = torch.eye(dim)[dim - change :]
    out[:, :change] = -torch.eye(dim)[:, dim - change :]
    out[dim - change :, change:] = 0


def _measure_change(block: VitBlock, change: int, energy: int) -> None:
    """Put the absolute values of the last `change` channels, in groups, into the `energy` channels before them."""
    first, second = block.mlp.fc1.weight.data, block.mlp.fc2.weight.data
    dim = first.shape[1]
    block.ls2.gamma.data.fill_(1.0)
    second.mul_(0.5)
    first[: 2 * change] = 0
    second[:, : 2 * change] = 0
    for k in range(change):
        for unit, sign in ((2 * k, 2.0), (2 * k + 1, -2.0)):
            # GELU(x) + GELU(-x) is close to |x|.
            first[unit, dim - change + k] = sign
            second[dim - change - energy + k % energy, unit] = 0.4


def _cosine(order: int, length: int) -> NDArray[np.float64]:
    wave = np.cos(math.pi * (np.arange(length) + 0.5) * order / length)
    return wave / np.linalg.norm(wave)


def _match_positions(block: VitBlock, generator: torch.Generator) -> None:
    """Each head looks at its own place in all frames, and hands on what it sees there."""
    attention = block.attn
    dim, heads = attention.proj.in_features, attention.heads
    head_dim = dim // heads
    half = head_dim // 2
    # Channels i and i + half/2 of a half turn together: opposite signs survive the head's LayerNorm.
    pattern = torch.ones(head_dim)
    for start in (0, half):
        pattern[start + half // 2 : start + half] = -1
    attention.qkv.bias.data[:dim] = pattern.repeat(heads)
    attention.qkv.bias.data[dim : 2 * dim] = pattern.repeat(heads)
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight.data.fill_(math.sqrt(POSITION_GAIN))
        # The fast angles tell neighbours apart; the slow ones are left to content.
        fast = torch.zeros(head_dim, dtype=torch.bool)
        for start in range(0, head_dim, half // 2):
            fast[start : start + half // 4] = True
        norm.weight.data[fast] = POSITION_GAIN
    attention.qkv.weight.data[: 2 * dim].mul_(0.3)
    attention.qkv.weight.data[: 2 * dim][fast.repeat(2 * heads)] = 0
    values = torch.empty(dim, dim)
    nn.init.orthogonal_(values, generator=generator)
    attention.qkv.weight.data[2 * dim :] = values
    attention.proj.weight.data.copy_(-values.T)


TRACKER_POSITION_GAIN = 4.7
"""Of the biases by which a memory is read at its own place: a neighbour then weighs a seventh."""

OBJECT_SCORE_BIAS = 3.0
"""Objects start as visible: a hidden one's masks carry no gradient."""


def initialise_tracker(sam2: FeaturePredictor) -> None:
    """Let memory attention start by reading each memory where it looks, in the package's initial weights."""
    for layer in sam2.memory_attention.layers:
        attention = layer.cross_attn_image
        for projection in (attention.q_proj, attention.k_proj):
            # The package rotates neighbouring channels together.
            projection.bias.data[0::2] = TRACKER_POSITION_GAIN
            projection.bias.data[1::2] = 0
    *_, last = (m for m in sam2.sam_mask_decoder.pred_obj_score_head.modules() if isinstance(m, nn.Linear))
    last.bias.data.fill_(OBJECT_SCORE_BIAS)
    for block in sam2.memory_encoder.fuser.layers:
        block.gamma.data.fill_(0.1)
