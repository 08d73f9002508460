"""The GMOS proposer: object masks, motion, IoU and confidence for a set of learned queries."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..attention import RopeTable, SeparateAttention
from ..presets import ProposerConfig
from .feature_fusion import TRANSFORMER_NORM_EPS, FeatureFusion, GridRope, Mlp, confidence
from .mask_upsampling import MaskUpsampling


class Proposals(NamedTuple):
    """What the proposer says about N queries; m is four times the token grid.

    `mask_logits` (B, N, m, m), already shifted by motion; `motion_logits` (B, N); `ious` (B, N), not
    squashed; `confidences` (B, N) in 1..5.
    """

    mask_logits: Tensor
    motion_logits: Tensor
    ious: Tensor
    confidences: Tensor


class DecoderLayer(nn.Module):
    """Queries attend to themselves and to the image, and the image to the queries; all post-norm."""

    def __init__(self, config: ProposerConfig, *, first: bool) -> None:
        super().__init__()
        dim, heads, downsample = config.dim, config.heads, config.cross_downsample
        self.first = first
        self.self_attn = SeparateAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim, eps=TRANSFORMER_NORM_EPS)
        self.cross_attn_token_to_image = SeparateAttention(dim, heads, downsample=downsample)
        self.norm2 = nn.LayerNorm(dim, eps=TRANSFORMER_NORM_EPS)
        self.mlp = Mlp(dim, config.mlp_dim, dim, relu=False)
        self.norm3 = nn.LayerNorm(dim, eps=TRANSFORMER_NORM_EPS)
        self.cross_attn_image_to_token = SeparateAttention(dim, heads, downsample=downsample)
        self.norm4 = nn.LayerNorm(dim, eps=TRANSFORMER_NORM_EPS)

    def forward(
        self, queries: Tensor, image: Tensor, positions: Tensor, rope: RopeTable
    ) -> tuple[Tensor, Tensor]:
        """One two-way step.

        Args:
            queries: (B, N, C).
            image: (B, L, C) image tokens.
            positions: (1, N, C), the queries' positional term.
            rope: (L, D) of the image tokens.

        Returns:
            The new queries and image tokens.
        """
        if self.first:
            # The queries are their own positional term here: no second copy of it, and no residual.
            queries = self.self_attn(queries, queries, queries)
        else:
            placed = queries + positions
            queries = queries + self.self_attn(placed, placed, queries)
        queries = self.norm1(queries)
        asked = self.cross_attn_token_to_image(queries + positions, image, image, k_rope=rope)
        queries = self.norm2(queries + asked)
        queries = self.norm3(queries + self.mlp(queries))
        told = self.cross_attn_image_to_token(image, queries + positions, queries, q_rope=rope)
        return queries, self.norm4(image + told)


class QueryDecoder(nn.Module):
    """The two-way transformer (`trans_decoder`) with its closing queries-to-image attention."""

    def __init__(self, config: ProposerConfig) -> None:
        super().__init__()
        self.rope = GridRope(config, config.dim // config.cross_downsample // config.heads)
        self.layers = nn.ModuleList(DecoderLayer(config, first=i == 0) for i in range(config.decoder_layers))
        self.final_attn_token_to_image = SeparateAttention(
            config.dim, config.heads, downsample=config.cross_downsample
        )
        self.norm_final_attn = nn.LayerNorm(config.dim, eps=TRANSFORMER_NORM_EPS)

    def forward(self, queries: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            queries: (1, N, C), the learned queries.
            image: (B, L, C) encoded image tokens.

        Returns:
            Queries (B, N, C) and image tokens (B, L, C).
        """
        rope, positions = self.rope(), queries
        queries = queries.expand(image.shape[0], -1, -1)
        for layer in self.layers:
            queries, image = layer(queries, image, positions, rope)
        asked = self.final_attn_token_to_image(queries + positions, image, image, k_rope=rope)
        return self.norm_final_attn(queries + asked), image


class GmosProposer(FeatureFusion):
    """The proposer, in float32 as published. Key names are those of the published checkpoint."""

    def __init__(self, config: ProposerConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.obj_token = nn.Parameter(torch.zeros(1, config.queries, dim))
        self.motion_bias = nn.Parameter(torch.zeros(()))
        self.motion_weight = nn.Parameter(torch.ones(1))
        self.trans_decoder = QueryDecoder(config)
        self.upsampling = MaskUpsampling(config)
        self.motion_head = Mlp(dim, dim, dim, 1, relu=True)
        self.conf_head = Mlp(dim, dim, dim, 1, relu=True)
        self.iou_head = Mlp(dim, dim, dim, 1, relu=True)

    def forward(self, geometry: Tensor, features: Tensor, s0: Tensor, s1: Tensor) -> Proposals:
        """Propose objects for each frame.

        Args:
            geometry: (B, h, w, C) Pi3 features of the window's middle frame.
            features: (B, C, grid, grid) SAM2 features f + no_mem_embed.
            s0: (B, C/8, 4 * grid, 4 * grid) SAM2 features at stride 4.
            s1: (B, C/4, 2 * grid, 2 * grid) SAM2 features at stride 8.

        Returns:
            The proposals of all queries, unsorted.
        """
        queries, image = self.trans_decoder(self.obj_token, self.encode(geometry, features))
        motion = self.motion_head(queries)
        shift = self.motion_weight * (motion.sigmoid() - self.motion_bias)
        masks = self.upsampling(queries, image, s0, s1) + shift.unsqueeze(-1)
        return Proposals(
            mask_logits=masks,
            motion_logits=motion.squeeze(-1),
            ious=self.iou_head(queries).squeeze(-1),
            confidences=confidence(self.conf_head(queries)).squeeze(-1),
        )
