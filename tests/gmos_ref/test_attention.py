"""Both attention modules against softmax attention written out head by head."""

from __future__ import annotations

import cmath
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmos_deploy.gmos_ref.attention import (
    FusedAttention,
    RopeTable,
    SeparateAttention,
    apply_rope,
    grid_positions,
    rope_table,
)

ROUNDING = 1e-5
Build = Callable[[Callable[[], nn.Module]], nn.Module]
Normal = Callable[[int, tuple[int, ...]], Tensor]

ROPE_ROUNDING = 1e-5
"""Float32 angles up to a few radians, against float64."""


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


def rotate_by_loop(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Every pair of channels of (L, D) as one complex number, turned by its angle in float64."""
    out = torch.empty(x.shape, dtype=torch.float64)
    length, width = x.shape
    half, quarter = width // 2, width // 4
    for token in range(length):
        for axis in range(2):
            for i in range(quarter):
                angle = positions[token, axis].item() * base ** (-2 * i / half)
                a, b = axis * half + i, axis * half + i + quarter
                turned = complex(x[token, a], x[token, b]) * cmath.exp(1j * angle)
                out[token, a], out[token, b] = turned.real, turned.imag
    return out


@pytest.mark.parametrize(("head_dim", "base", "start"), [(16, 100.0, 1), (8, 56.25, 0), (4, 100.0, 1)])
def test_rotation_equals_complex_loop(
    normal: Callable[[int, tuple[int, ...]], Tensor], head_dim: int, base: float, start: int
) -> None:
    """Rows turn the first half of a head and columns the second, pair by pair."""
    positions = grid_positions(3, 5, start=start, device="cpu")
    x = normal(1, (15, head_dim))
    rotated = apply_rope(x, rope_table(positions, head_dim=head_dim, base=base))
    expected = rotate_by_loop(x, positions, base).float()
    torch.testing.assert_close(rotated, expected, rtol=0, atol=ROPE_ROUNDING)


def test_positions_are_row_major() -> None:
    """Tokens are counted row by row, from the given start."""
    assert grid_positions(2, 3, start=1, device="cpu").tolist() == [
        [1, 1],
        [1, 2],
        [1, 3],
        [2, 1],
        [2, 2],
        [2, 3],
    ]


def test_position_zero_does_not_turn(normal: Callable[[int, tuple[int, ...]], Tensor]) -> None:
    """A token at (0, 0) is left exactly as it is."""
    x = normal(2, (1, 3, 2, 16))
    table = rope_table(torch.zeros(2, 2, dtype=torch.int64), head_dim=16, base=100.0)
    assert torch.equal(apply_rope(x, table), x)


def test_dot_products_depend_on_the_offset(normal: Callable[[int, tuple[int, ...]], Tensor]) -> None:
    """Query and key moved together keep their product."""
    q, k = normal(3, (1, 16)), normal(4, (1, 16))

    def product(at_q: tuple[int, int], at_k: tuple[int, int]) -> float:
        tables = [rope_table(torch.tensor([at]), head_dim=16, base=100.0) for at in (at_q, at_k)]
        return (apply_rope(q, tables[0]) * apply_rope(k, tables[1])).sum().item()

    assert product((2, 7), (5, 3)) == pytest.approx(product((12, 9), (15, 5)), abs=ROPE_ROUNDING)
    assert product((2, 7), (5, 3)) != pytest.approx(product((2, 7), (6, 3)), abs=1e-2)


def test_half_precision_rotates_in_float32(normal: Callable[[int, tuple[int, ...]], Tensor]) -> None:
    """Half-precision queries keep their dtype and round once, at the end."""
    x = normal(5, (6, 16)).bfloat16()
    table = rope_table(grid_positions(2, 3, start=1, device="cpu"), head_dim=16, base=100.0)
    rotated = apply_rope(x, table)
    assert rotated.dtype == torch.bfloat16
    assert torch.equal(rotated, apply_rope(x.float(), table).bfloat16())


def test_repeat_is_the_table_again() -> None:
    """A window's table is its frame's, frame after frame."""
    table = rope_table(grid_positions(2, 2, start=1, device="cpu"), head_dim=8, base=100.0)
    repeated = table.repeat(3)
    assert repeated.cos.shape == (12, 8)
    assert torch.equal(repeated.sin[4:8], table.sin)
