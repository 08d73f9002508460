"""What GMOS and GMOS-S share: the fused token map of Pi3 and SAM2 features, its encoder, and small MLPs."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import RopeTable, SeparateAttention, grid_positions, rope_table
from ..presets import ProposerConfig

PROJECTOR_NORM_EPS = 1e-6
TRANSFORMER_NORM_EPS = 1e-5


class Projector(nn.Module):
    """Linear, exact GELU, LayerNorm over the last axis."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(outputs, eps=PROJECTOR_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return self.norm(F.gelu(self.proj(x)))


class Mlp(nn.Module):
    """Linear layers with one activation between them: exact GELU, or ReLU in the prediction heads."""

    def __init__(self, *widths: int, relu: bool) -> None:
        super().__init__()
        self.relu = relu
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., first width) to (..., last width)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x)) if self.relu else F.gelu(layer(x))
        return last(x)


class GridRope(nn.Module):
    """The RoPE table of a fixed square grid, kept with the module and not in its checkpoint."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ProposerConfig, head_dim: int) -> None:
        super().__init__()
        # On the CPU even where the module is built without storage: no checkpoint fills it.
        positions = grid_positions(config.grid, config.grid, start=0, device="cpu")
        table = rope_table(positions, head_dim=head_dim, base=config.rope_base)
        self.register_buffer("cos", table.cos, persistent=False)
        self.register_buffer("sin", table.sin, persistent=False)

    def forward(self) -> RopeTable:
        """The table, (grid * grid, head_dim)."""
        return RopeTable(cos=self.cos, sin=self.sin)


class EncoderLayer(nn.Module):
    """Post-norm self-attention with RoPE, then a post-norm MLP."""

    def __init__(self, config: ProposerConfig) -> None:
        super().__init__()
        self.self_attn = SeparateAttention(config.dim, config.heads)
        self.norm1 = nn.LayerNorm(config.dim, eps=TRANSFORMER_NORM_EPS)
        self.mlp = Mlp(config.dim, config.mlp_dim, config.dim, relu=False)
        self.norm2 = nn.LayerNorm(config.dim, eps=TRANSFORMER_NORM_EPS)

    def forward(self, x: Tensor, rope: RopeTable) -> Tensor:
        """(B, L, C) to (B, L, C)."""
        x = self.norm1(x + self.self_attn(x, x, x, q_rope=rope, k_rope=rope))
        return self.norm2(x + self.mlp(x))


class ImageEncoder(nn.Module):
    """The transformer over the fused tokens (`trans_encoder`)."""

    def __init__(self, config: ProposerConfig) -> None:
        super().__init__()
        self.rope = GridRope(config, config.dim // config.heads)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, grid * grid, C) to the same."""
        rope = self.rope()
        for layer in self.layers:
            x = layer(x, rope)
        return x


class FeatureFusion(nn.Module):
    """Base of GMOS and GMOS-S: projects both feature maps, fuses them and encodes the tokens."""

    def __init__(self, config: ProposerConfig) -> None:
        super().__init__()
        self.config = config
        self.pi3_projector = Projector(config.pi3_dim, config.dim)
        self.sam_projector = Projector(config.sam2_channels, config.dim)
        self.merge_projector = Projector(2 * config.dim, config.dim)
        self.trans_encoder = ImageEncoder(config)

    def encode(self, geometry: Tensor, features: Tensor) -> Tensor:
        """Encoded image tokens.

        Args:
            geometry: (B, h, w, C) Pi3 features at their own resolution.
            features: (B, C, grid, grid) SAM2 features f + no_mem_embed.

        Returns:
            (B, grid * grid, C).
        """
        grid = self.config.grid
        pi3 = self.pi3_projector(geometry).permute(0, 3, 1, 2)
        pi3 = F.interpolate(pi3, size=(grid, grid), mode="bilinear", align_corners=False)
        sam = self.sam_projector(features.permute(0, 2, 3, 1))
        fused = self.merge_projector(torch.cat((pi3.permute(0, 2, 3, 1), sam), dim=-1))
        return self.trans_encoder(fused.flatten(1, 2))


def confidence(raw: Tensor) -> Tensor:
    """The confidence head's output as a confidence in 1..5."""
    return 1 + 4 * raw.sigmoid()
