"""The reference's modules behind the runtime's contract: one class per network that is not trivially one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .gmos.gmos_s import Foreground, GmosS
from .gmos.proposer import GmosProposer, Proposals
from .pi3.encoder import Pi3Encoder, Pi3Tables
from .sam2.model import FeaturePredictor


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceNetworks:
    """The loaded modules of one reference: on the CPU, in float32 and in eval mode."""

    pi3: Pi3Encoder
    sam2: FeaturePredictor
    head: GmosProposer | GmosS


class DinoNetwork(nn.Module):
    """Patch tokens from 8-bit frames: (B, 3, H, W) uint8 to (B, h, w, C)."""

    def __init__(self, pi3: Pi3Encoder) -> None:
        super().__init__()
        self.pi3 = pi3

    def forward(self, frames: Tensor, tables: Pi3Tables) -> Tensor:
        """`tables` are those of the frames' patch grid."""
        return self.pi3.encode_frames(frames.float() / 255, tables)


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
