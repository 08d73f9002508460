"""From image tokens back to stride 4, with SAM2's finer maps added, and masks as products with queries."""

from __future__ import annotations

from torch import Tensor, nn

from ..presets import ProposerConfig
from .feature_fusion import Mlp

CHANNEL_NORM_EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a (B, C, H, W) map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=CHANNEL_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Upscaling(nn.ModuleList):
    """Two transposed convolutions, each doubling the side, with s1 and s0 added after them.

    A list for its key names: 0 and 3 are the convolutions and 1 is the norm.
    """

    def __init__(self, config: ProposerConfig) -> None:
        middle, fine = config.sam2_channels // 4, config.sam2_channels // 8
        super().__init__(
            [
                nn.ConvTranspose2d(config.dim, middle, kernel_size=2, stride=2),
                ChannelNorm(middle),
                nn.GELU(),
                nn.ConvTranspose2d(middle, fine, kernel_size=2, stride=2),
                nn.GELU(),
            ]
        )
        self.grid = config.grid

    def forward(self, tokens: Tensor, s0: Tensor, s1: Tensor) -> Tensor:
        """Upscale by four.

        Args:
            tokens: (B, grid * grid, C).
            s0: (B, C/8, 4 * grid, 4 * grid) SAM2 features at stride 4.
            s1: (B, C/4, 2 * grid, 2 * grid) SAM2 features at stride 8.

        Returns:
            (B, C/8, 4 * grid, 4 * grid).
        """
        first, norm, act, second, last_act = self
        x = tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        x = act(norm(first(x) + s1))
        return last_act(second(x) + s0)


class MaskUpsampling(nn.Module):
    """One mask per query: a vector from the query times the upscaled map."""

    def __init__(self, config: ProposerConfig) -> None:
        super().__init__()
        self.output_upscaling = Upscaling(config)
        self.output_hypernetwork_mlp = Mlp(
            config.dim, config.dim, config.dim, config.sam2_channels // 8, relu=True
        )

    def forward(self, queries: Tensor, tokens: Tensor, s0: Tensor, s1: Tensor) -> Tensor:
        """(B, N, C) queries and (B, grid * grid, C) tokens to mask logits (B, N, 4 * grid, 4 * grid)."""
        upscaled = self.output_upscaling(tokens, s0, s1)
        masks = self.output_hypernetwork_mlp(queries) @ upscaled.flatten(2)
        return masks.unflatten(2, upscaled.shape[-2:])
