"""Both attention modules against softmax attention written out head by head."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmos_deploy.gmos_ref.attention import FusedAttention, SeparateAttention
from gmos_deploy.gmos_ref.rope import RopeTable, apply_rope, grid_positions, rope_table

ROUNDING = 1e-5
Build = Callable[[Callable[[], nn.Module]], nn.Module]
Normal = Callable[[int, tuple[int, ...]], Tensor]


def attend_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for one head of (L, D)."""
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v


def table(head_dim: int) -> RopeTable:
    """RoPE of a 2 x 3 grid."""
    return rope_table(grid_positions(2, 3, start=1, device="cpu"), head_dim=head_dim, base=100.0)


def test_fused_attention(deterministic: Build, normal: Normal) -> None:
    """q, k, v are thirds of one projection; q and k are normalised per head, then rotated; v is not."""
    module = deterministic(lambda: FusedAttention(32, 2, qk_norm=True))
    x, rope = normal(1, (1, 6, 32)), table(16)
    q, k, v = F.linear(x[0], module.qkv.weight, module.qkv.bias).split(32, dim=-1)
    heads = []
    for part in (slice(0, 16), slice(16, 32)):
        q_head, k_head = (
            apply_rope(F.layer_norm(y[:, part], (16,), norm.weight, norm.bias, 1e-5), rope)
            for y, norm in ((q, module.q_norm), (k, module.k_norm))
        )
        heads.append(attend_head(q_head, k_head, v[:, part]))
    expected = module.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(module(x, rope)[0], expected, rtol=0, atol=ROUNDING)


def test_queries_form_equals_rows_of_the_whole(deterministic: Build, normal: Normal) -> None:
    """Asking for some tokens only gives their rows of the full attention."""
    module = deterministic(lambda: FusedAttention(32, 2, qk_norm=True))
    x, rope = normal(2, (2, 6, 32)), table(16)
    some = RopeTable(cos=rope.cos[2:4], sin=rope.sin[2:4])
    rows = module.forward_queries(x[:, 2:4], x, some, rope)
    torch.testing.assert_close(rows, module(x, rope)[:, 2:4], rtol=0, atol=ROUNDING)


def test_separate_attention(deterministic: Build, normal: Normal) -> None:
    """Inner width is dim / downsample, and RoPE acts per head on the side that has a table."""
    module = deterministic(lambda: SeparateAttention(32, 2, downsample=2))
    queries, image, rope = normal(3, (1, 4, 32)), normal(4, (1, 6, 32)), table(8)
    q, k, v = module.q_proj(queries[0]), module.k_proj(image[0]), module.v_proj(image[0])
    heads = [
        attend_head(q[:, part], apply_rope(k[:, part], rope), v[:, part])
        for part in (slice(0, 8), slice(8, 16))
    ]
    expected = module.out_proj(torch.cat(heads, dim=-1))
    given = module(queries, image, image, k_rope=rope)[0]
    torch.testing.assert_close(given, expected, rtol=0, atol=ROUNDING)
    turned = module(image, queries, queries, q_rope=rope)
    assert not torch.allclose(turned, module(image, queries, queries), atol=1e-3)
