"""The reference's modules behind the runtime's contract: one class per network that is not trivially one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.pipeline.mask_upsampling import argmax_labels
from .gmos.gmos_s import Foreground, GmosS
from .gmos.proposer import GmosProposer, Proposals
from .pi3.encoder import IMAGENET_MEAN, IMAGENET_STD, Pi3Encoder
from .sam2.model import FeaturePredictor

FOREGROUND_PROBABILITY = 0.5
"""A pixel is foreground above this probability (GMOS-S)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceNetworks:
    """The loaded modules of one reference: on the CPU, in float32 and in eval mode."""

    pi3: Pi3Encoder
    sam2: FeaturePredictor
    head: GmosProposer | GmosS


def keep_best(proposals: Proposals, kept: int) -> Proposals:
    """The `kept` queries with the largest motion logits, in that order; equal ones keep theirs."""
    order = proposals.motion_logits.argsort(dim=1, descending=True, stable=True)[:, :kept]
    masks = proposals.mask_logits
    return Proposals(
        mask_logits=masks.gather(1, order[:, :, None, None].expand(-1, -1, *masks.shape[2:])),
        motion_logits=proposals.motion_logits.gather(1, order),
        ious=proposals.ious.gather(1, order),
        confidences=proposals.confidences.gather(1, order),
    )


class HeadNetwork(nn.Module):
    """A proposer or GMOS-S on the encoders' own outputs, in float32.

    Adds SAM2's `no_mem_embed` (C,) to f, as an image without memories has it, and keeps the best
    `kept` queries of a proposer.
    """

    no_mem_embed: Tensor

    def __init__(self, head: GmosProposer | GmosS, no_mem_embed: Tensor, kept: int) -> None:
        super().__init__()
        self.head = head
        self.kept = kept
        self.register_buffer("no_mem_embed", no_mem_embed.detach().reshape(1, -1, 1, 1).clone())

    def forward(self, geometry: Tensor, s0: Tensor, s1: Tensor, f: Tensor) -> Proposals | Foreground:
        """Geometry (B, h, w, C) and the SAM2 features of the same frames."""
        with torch.autocast(geometry.device.type, enabled=False):
            out = self.head(geometry.float(), f.float() + self.no_mem_embed, s0.float(), s1.float())
        return keep_best(out, self.kept) if isinstance(out, Proposals) else out


class Sam2Resize(nn.Module):
    """Video frames to SAM2's square input: antialiased bilinear on floats, then normalised."""

    mean: Tensor
    std: Tensor

    def __init__(self, image_px: int) -> None:
        super().__init__()
        self.image_px = image_px
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 to (B, 3, S, S) float32."""
        images = frames.permute(0, 3, 1, 2).float() / 255
        size = (self.image_px, self.image_px)
        images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return (images - self.mean) / self.std


def proposal_labels(mask_logits: Tensor, video_hw: tuple[int, int]) -> Tensor:
    """The query that wins each pixel: (B, K, m, m) logits to (B, H, W) uint8, 0 or 1 + query.

    A pixel belongs to the arg-max query where its bilinearly resized logit is positive. One frame at
    a time, so that only one frame's (K, H, W) logits exist at once.
    """
    return torch.stack([_labels_of_frame(frame, video_hw) for frame in mask_logits.float()])


def _labels_of_frame(logits: Tensor, video_hw: tuple[int, int]) -> Tensor:
    if logits.device.type == "cpu":
        return torch.from_numpy(argmax_labels(logits.numpy(), video_hw))
    resized = F.interpolate(logits[None], video_hw, mode="bilinear", align_corners=False)[0]
    best, query = resized.max(dim=0)
    return torch.where(best > 0, query + 1, 0).to(torch.uint8)


def foreground_map(logits: Tensor, video_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """GMOS-S logits (B, 1, m, m) to the mask and the 8-bit probability, both (B, H, W) uint8."""
    resized = F.interpolate(logits.float(), video_hw, mode="bilinear", align_corners=False)
    probability = resized[:, 0].sigmoid()
    mask = (probability > FOREGROUND_PROBABILITY).to(torch.uint8)
    return mask, (probability * 255).floor().to(torch.uint8)
