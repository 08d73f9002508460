"""DINOv2 with registers: patch tokens of single frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..presets import Pi3Config
from .vit_block import BLOCK_NORM_EPS, VitBlock


class PatchEmbed(nn.Module):
    """One token per patch, by a convolution as wide as its stride."""

    def __init__(self, dim: int, patch_px: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_px, stride=patch_px)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, h*w, C), row by row."""
        return self.proj(frames).flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    """The ViT of Pi3's image encoder. Key names are those of the published checkpoint."""

    def __init__(self, config: Pi3Config) -> None:
        super().__init__()
        dim = config.dim
        self.grid = config.dino_grid
        self.skipped = 1 + config.dino_registers
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.dino_grid**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.dino_registers, dim))
        self.patch_embed = PatchEmbed(dim, config.patch_px)
        self.blocks = nn.ModuleList(
            VitBlock(dim, config.heads, mlp_ratio=config.mlp_ratio, qk_norm=False)
            for _ in range(config.dino_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)

    def position_embedding(self, h: int, w: int) -> Tensor:
        """The stored position embedding for a grid of (h, w) patches.

        Returns:
            (1, 1 + h*w, C) float32, the class token's first. The stored grid itself is returned
            untouched, any other by antialiased bicubic interpolation to that size (DINOv2 with
            `interpolate_antialias` and no offset).
        """
        stored = self.pos_embed.detach().float()
        if (h, w) == (self.grid, self.grid):
            return stored
        patches = stored[:, 1:].unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        resized = F.interpolate(patches, size=(h, w), mode="bicubic", align_corners=False, antialias=True)
        return torch.cat((stored[:, :1], resized.flatten(2).transpose(1, 2)), dim=1)

    def forward(self, frames: Tensor, pos_embed: Tensor) -> Tensor:
        """Patch tokens after the final norm.

        Args:
            frames: (B, 3, H, W) ImageNet-normalised, H and W multiples of the patch.
            pos_embed: `position_embedding(h, w)`.

        Returns:
            (B, h*w, C).
        """
        patches = self.patch_embed(frames) + pos_embed[:, 1:]
        # The registers have no position.
        front = torch.cat((self.cls_token + pos_embed[:, :1], self.register_tokens), dim=1)
        x = torch.cat((front.expand(patches.shape[0], -1, -1), patches), dim=1)
        # Positions are added in float32; the blocks run in the precision of the weights (or autocast's).
        x = x.to(self.cls_token.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, self.skipped :])
