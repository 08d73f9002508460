"""The Pi3 encoder: geometric features of the middle frame of a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..attention import RopeTable, grid_positions, rope_table
from ..presets import Pi3Config
from .dino import DinoV2
from .vit_block import VitBlock

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB values in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pi3Tables:
    """What the encoder needs to know about one resolution, computed once for it; all float32.

    `pos_embed` (1, 1 + h*w, C) for DINOv2; `frame_rope` for the L = 5 + h*w tokens of a frame and
    `window_rope` for the T*L tokens of a window.
    """

    pos_embed: Tensor
    frame_rope: RopeTable
    window_rope: RopeTable


class Pi3Encoder(nn.Module):
    """DINOv2 per frame, then blocks that attend within a frame (even) and over the window (odd).

    The two halves are called separately because the first depends on one frame alone and is cached. The decoder's first
    `frame_blocks` of the configuration belong to it: all of them attend within a frame.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: Pi3Config) -> None:
        super().__init__()
        self.config = config
        self.register_token = nn.Parameter(torch.zeros(1, 1, config.decoder_registers, config.dim))
        # On the CPU even where the module is built without storage: these two have values of their own.
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN, device="cpu").view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD, device="cpu").view(1, 3, 1, 1))
        self.encoder = DinoV2(config)
        self.decoder = nn.ModuleList(
            VitBlock(config.dim, config.heads, mlp_ratio=config.mlp_ratio, qk_norm=True)
            for _ in range(config.decoder_depth)
        )

    def tables(self, h: int, w: int) -> Pi3Tables:
        """The tables of a grid of (h, w) patches, on the encoder's device."""
        config, device = self.config, self.register_token.device
        patches = grid_positions(h, w, start=1, device=device)
        registers = torch.zeros(config.decoder_registers, 2, dtype=patches.dtype, device=device)
        frame = rope_table(torch.cat((registers, patches)), head_dim=config.head_dim, base=config.rope_base)
        return Pi3Tables(
            pos_embed=self.encoder.position_embedding(h, w),
            frame_rope=frame,
            window_rope=frame.repeat(config.window),
        )

    def normalize(self, frames: Tensor) -> Tensor:
        """RGB in [0, 1] (B, 3, H, W) to ImageNet-normalised, in the dtype of the weights."""
        normalized = (frames.float() - self.image_mean.float()) / self.image_std.float()
        return normalized.to(self.encoder.cls_token.dtype)

    def encode_frames(self, frames: Tensor, tables: Pi3Tables) -> Tensor:
        """DINOv2 patch tokens of each frame on its own.

        Args:
            frames: (B, 3, H, W) RGB in [0, 1], H and W multiples of the patch.
            tables: `tables(h, w)` of their grid.

        Returns:
            (B, h, w, C).
        """
        h, w = (side // self.config.patch_px for side in frames.shape[-2:])
        return self.encoder(self.normalize(frames), tables.pos_embed).unflatten(1, (h, w))

    def decode_frames(self, tokens: Tensor, tables: Pi3Tables) -> tuple[Tensor, Tensor]:
        """The decoder's blocks that see one frame: the first `frame_blocks`.

        Args:
            tokens: (B, h, w, C) from `encode_frames`.
            tables: `tables(h, w)`.

        Returns:
            Patches (B, h, w, C) and registers (B, r, C), for `decode_window`.
        """
        registers = self.register_token[0].expand(tokens.shape[0], -1, -1)
        x = torch.cat((registers, tokens.flatten(1, 2).to(registers.dtype)), dim=1)
        for block in self.decoder[: self.config.frame_blocks]:
            x = block(x, tables.frame_rope)
        count = self.config.decoder_registers
        return x[:, count:].unflatten(1, tokens.shape[1:3]), x[:, :count]

    def decode_window(self, tokens: Tensor, tables: Pi3Tables, registers: Tensor | None = None) -> Tensor:
        """Features of the middle frame of each window.

        The last block attends over the window, and the middle frame's tokens are all that is read of
        it; so it is computed for that frame's queries only.

        Args:
            tokens: (B, T, h, w, C) from `encode_frames`, or from `decode_frames` if it has blocks.
            tables: `tables(h, w)`.
            registers: (B, T, r, C) from `decode_frames`.

        Returns:
            (B, h, w, C).
        """
        batch, window, h, w, channels = tokens.shape
        if registers is None:
            registers = self.register_token.expand(batch, window, -1, -1)
        x = torch.cat((registers, tokens.flatten(2, 3).to(registers.dtype)), dim=2)
        length = x.shape[2]
        *blocks, last = self.decoder
        for i, block in enumerate(blocks):
            if i < self.config.frame_blocks:
                continue
            if i % 2 == 0:
                x = block(x.reshape(batch * window, length, channels), tables.frame_rope)
            else:
                x = block(x.reshape(batch, window * length, channels), tables.window_rope)
        x = cast(VitBlock, last).forward_frame(
            x.reshape(batch, window, length, channels),
            self.config.middle,
            tables.frame_rope,
            tables.window_rope,
        )
        return x[:, self.config.decoder_registers :].unflatten(1, (h, w))

    def forward(self, frames: Tensor, tables: Pi3Tables) -> Tensor:
        """Both halves at once: (B, T, 3, H, W) in [0, 1] to the middle frames' features (B, h, w, C)."""
        batch, window = frames.shape[:2]
        tokens = self.encode_frames(frames.flatten(0, 1), tables)
        if not self.config.frame_blocks:
            return self.decode_window(tokens.unflatten(0, (batch, window)), tables)
        tokens, registers = (
            part.unflatten(0, (batch, window)) for part in self.decode_frames(tokens, tables)
        )
        return self.decode_window(tokens, tables, registers)
