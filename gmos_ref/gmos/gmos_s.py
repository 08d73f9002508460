"""GMOS-S: one foreground map of everything that moves."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ..presets import ProposerConfig
from .feature_fusion import FeatureFusion, Mlp, confidence
from .mask_upsampling import Upscaling


class Foreground(NamedTuple):
    """What GMOS-S says; m is four times the token grid.

    `foreground_logits` (B, 1, m, m); `ious` (B, 1), not squashed; `confidences` (B, 1) in 1..5.
    """

    foreground_logits: Tensor
    ious: Tensor
    confidences: Tensor


class GmosS(FeatureFusion):
    """GMOS-S, in float32 as published. Key names are those of the published checkpoint."""

    def __init__(self, config: ProposerConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.fg_upscaling = Upscaling(config)
        self.fg_out = nn.Conv2d(config.sam2_channels // 8, 1, kernel_size=1)
        self.iou_head = Mlp(dim, dim, dim, 1, relu=True)
        self.conf_head = Mlp(dim, dim, dim, 1, relu=True)

    def forward(self, geometry: Tensor, features: Tensor, s0: Tensor, s1: Tensor) -> Foreground:
        """Segment what moves in each frame.

        Args:
            geometry: (B, h, w, C) Pi3 features of the window's middle frame.
            features: (B, C, grid, grid) SAM2 features f + no_mem_embed.
            s0: (B, C/8, 4 * grid, 4 * grid) SAM2 features at stride 4.
            s1: (B, C/4, 2 * grid, 2 * grid) SAM2 features at stride 8.
        """
        tokens = self.encode(geometry, features)
        average = tokens.mean(dim=1)
        return Foreground(
            foreground_logits=self.fg_out(self.fg_upscaling(tokens, s0, s1)),
            ious=self.iou_head(average),
            confidences=confidence(self.conf_head(average)),
        )
