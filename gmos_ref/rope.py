"""Two-dimensional rotary position embedding in real numbers: the tables of a grid, and the rotation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
