"""The pre-norm transformer block with LayerScale that DINOv2 and the Pi3 decoder share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import FusedAttention, RopeTable

BLOCK_NORM_EPS = 1e-6
"""LayerNorm of every DINOv2 and Pi3 block, and of DINOv2's output."""


class LayerScale(nn.Module):
    """Multiplies a branch by one learned factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return x * self.gamma


class GeluMlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class VitBlock(nn.Module):
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x)))."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: int, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.attn = FusedAttention(dim, heads, qk_norm=qk_norm)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.mlp = GeluMlp(dim, mlp_ratio * dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, rope: RopeTable | None = None) -> Tensor:
        """(B, L, C) to (B, L, C)."""
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))

    def forward_frame(self, x: Tensor, frame: int, frame_rope: RopeTable, window_rope: RopeTable) -> Tensor:
        """`forward` over a whole window, for the tokens of one of its frames only.

        Args:
            x: (B, T, L, C).
            frame: index in T.
            frame_rope: (L, D) of one frame.
            window_rope: (T * L, D).

        Returns:
            (B, L, C), equal to the rows of that frame in the plain form.
        """
        normed = self.norm1(x)
        attended = self.attn.forward_queries(normed[:, frame], normed.flatten(1, 2), frame_rope, window_rope)
        tokens = x[:, frame] + self.ls1(attended)
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))
