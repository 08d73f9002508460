"""Multi-head attention, fused as in Pi3 and DINOv2 or separate as in the GMOS heads, and the rotation of its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QK_NORM_EPS = 1e-5
"""LayerNorm over the channels of a head, in the Pi3 decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTable:
    """Cosines and sines (L, D) float32 of L tokens for heads of D channels."""

    cos: Tensor
    sin: Tensor

    def repeat(self, times: int) -> RopeTable:
        """The table of the same tokens `times` over, (times * L, D)."""
        return RopeTable(cos=self.cos.repeat(times, 1), sin=self.sin.repeat(times, 1))


def grid_positions(h: int, w: int, *, start: int, device: torch.device | str) -> Tensor:
    """Row and column (h*w, 2) int64 of the tokens of a grid in row-major order, counted from `start`."""
    rows = torch.arange(start, start + h, device=device)
    columns = torch.arange(start, start + w, device=device)
    return torch.cartesian_prod(rows, columns)


def rope_table(positions: Tensor, *, head_dim: int, base: float) -> RopeTable:
    """The rotation angles of tokens as cosines and sines.

    The first half of a head turns with the row, the second with the column. In a half of D channels,
    angle i is position * base^(-2i/D) for i < D/2, written twice: channels i and i + D/2 form a pair
    (published Pi3 and GMOS code).

    Args:
        positions: (L, 2) row and column of each token.
        head_dim: channels of one head, a multiple of 4.
        base: 100 in Pi3, 56.25 in the proposer.
    """
    half = head_dim // 2
    exponents = torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half
    angles = positions.to(torch.float32).unsqueeze(-1) * base**-exponents
    row, column = angles.unbind(1)
    angles = torch.cat((row, row, column, column), dim=-1)
    return RopeTable(cos=angles.cos(), sin=angles.sin())


def apply_rope(x: Tensor, table: RopeTable) -> Tensor:
    """Rotate queries or keys (..., L, D); computed in float32, returned in x's dtype."""
    x32 = x.float()
    row_a, row_b, column_a, column_b = x32.chunk(4, dim=-1)
    turned = torch.cat((-row_b, row_a, -column_b, column_a), dim=-1)
    return (x32 * table.cos + turned * table.sin).to(x.dtype)


class ScaledDotProduct(nn.Module):
    """softmax(q k^T / sqrt(D)) v. It has no state, so that an export may put another form in its place."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend.

        Args:
            q: (B, heads, Lq, D).
            k: (B, heads, Lk, D), of q's dtype.
            v: (B, heads, Lk, D), of q's dtype.

        Returns:
            (B, heads, Lq, D).
        """
        return F.scaled_dot_product_attention(q, k, v)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, C) to (B, heads, L, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, L, D) to (B, L, heads * D)."""
    return x.transpose(1, 2).flatten(-2)


class FusedAttention(nn.Module):
    """Self-attention with one `qkv` projection, as in DINOv2; with `qk_norm`, as in the Pi3 decoder."""

    def __init__(self, dim: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.q_norm = nn.LayerNorm(dim // heads, eps=QK_NORM_EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads, eps=QK_NORM_EPS) if qk_norm else nn.Identity()
        self.attend = ScaledDotProduct()

    def forward(self, x: Tensor, rope: RopeTable | None = None) -> Tensor:
        """Every token attends to every token: (B, L, C) to (B, L, C)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self._mix(q, k, v, rope, rope)

    def forward_queries(
        self, queries: Tensor, context: Tensor, query_rope: RopeTable, context_rope: RopeTable
    ) -> Tensor:
        """Only some tokens ask, and every token answers: the rows of `forward` that belong to `queries`.

        Args:
            queries: (B, Lq, C), tokens of the context.
            context: (B, L, C).
            query_rope: (Lq, D) of the queries.
            context_rope: (L, D).

        Returns:
            (B, Lq, C).
        """
        dim = queries.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(queries, weight[:dim], bias[:dim])
        k, v = F.linear(context, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        return self._mix(q, k, v, query_rope, context_rope)

    def _mix(
        self, q: Tensor, k: Tensor, v: Tensor, q_rope: RopeTable | None, k_rope: RopeTable | None
    ) -> Tensor:
        q, k = self.q_norm(split_heads(q, self.heads)), self.k_norm(split_heads(k, self.heads))
        v = split_heads(v, self.heads)
        if q_rope is not None and k_rope is not None:
            q, k = apply_rope(q, q_rope), apply_rope(k, k_rope)
        # Under autocast the norms answer in float32; attention itself stays in half precision.
        return self.proj(join_heads(self.attend(q.to(v.dtype), k.to(v.dtype), v)))


class SeparateAttention(nn.Module):
    """Attention with its own projection each for q, k, v and the output, as in SAM's two-way transformer."""

    def __init__(self, dim: int, heads: int, *, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)
        self.attend = ScaledDotProduct()

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        q_rope: RopeTable | None = None,
        k_rope: RopeTable | None = None,
    ) -> Tensor:
        """Attend with RoPE after the projections, where a table is given.

        Args:
            q: (B, Lq, C).
            k: (B, Lk, C).
            v: (B, Lk, C).
            q_rope: (Lq, D) for heads of D channels.
            k_rope: (Lk, D).

        Returns:
            (B, Lq, C).
        """
        queries = split_heads(self.q_proj(q), self.heads)
        keys = split_heads(self.k_proj(k), self.heads)
        values = split_heads(self.v_proj(v), self.heads)
        if q_rope is not None:
            queries = apply_rope(queries, q_rope)
        if k_rope is not None:
            keys = apply_rope(keys, k_rope)
        return self.out_proj(join_heads(self.attend(queries, keys, values)))
