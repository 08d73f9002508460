"""The reference's networks as modules with exactly the tensors of the contract, in the precision of the export."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...gmos_ref.attention import RopeTable
from ...gmos_ref.gmos.feature_fusion import GridRope, confidence
from ...gmos_ref.gmos.gmos_s import Foreground, GmosS
from ...gmos_ref.gmos.proposer import GmosProposer, Proposals
from ...gmos_ref.networks import HeadNetwork, ReferenceNetworks
from ...gmos_ref.pi3.dino import DinoV2
from ...gmos_ref.pi3.encoder import IMAGENET_MEAN, IMAGENET_STD, Pi3Encoder, Pi3Tables
from ...gmos_ref.pi3.vit_block import LayerScale, VitBlock
from ...gmos_ref.sam2.model import FeaturePredictor
from ...gmos_ref.sam2.tracker_networks import tracker_networks
from ...runtime.contract import ModelSpec, NetworkName


def fold_layer_scale(module: nn.Module) -> None:
    """Multiply the LayerScale factors into the linear layers before them, in place.

    Exact but for rounding; two passes over the activations of every block less.
    """
    for block in module.modules():
        if not isinstance(block, VitBlock):
            continue
        for scale_name, linear in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
            scale = getattr(block, scale_name)
            if not isinstance(scale, LayerScale):
                continue
            with torch.no_grad():
                linear.weight.mul_(scale.gamma[:, None])
                linear.bias.mul_(scale.gamma)
            setattr(block, scale_name, nn.Identity())


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Bring the weights to `dtype` in place; RoPE tables of fixed grids stay float32."""
    ropes = [part for part in module.modules() if isinstance(part, GridRope)]
    tables = [(rope.cos, rope.sin) for rope in ropes]
    module.to(dtype)
    for rope, table in zip(ropes, tables, strict=True):
        rope.cos, rope.sin = table


def _frame_rope(cos: Tensor, sin: Tensor, registers: int) -> RopeTable:
    """The rotation of a frame's tokens from that of its patches, (h, w, D) each."""
    # The registers are at position (0, 0): they are not turned.
    still = cos.new_zeros(registers, cos.shape[-1])
    return RopeTable(cos=torch.cat((still + 1, cos.flatten(0, 1))), sin=torch.cat((still, sin.flatten(0, 1))))


class DinoExport(nn.Module):
    """DINOv2 from 8-bit frames; the position embedding of the grid comes from outside."""

    front: Tensor
    factor: Tensor
    offset: Tensor

    def __init__(self, dino: DinoV2, dtype: torch.dtype) -> None:
        super().__init__()
        with torch.no_grad():
            front = torch.cat((dino.cls_token + dino.pos_embed[:, :1], dino.register_tokens), dim=1)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        fold_layer_scale(dino)
        self.dino = dino.to(dtype)
        self.dtype = dtype
        self.register_buffer("front", front.float())
        self.register_buffer("factor", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("offset", (-mean / std).view(1, 3, 1, 1))

    def forward(self, frames: Tensor, position: Tensor) -> Tensor:
        """Frames (B, 3, H, W) uint8 and position embedding (h, w, C) float32 to tokens (B, h, w, C)."""
        h, w, _ = position.shape
        images = (frames.float() * self.factor + self.offset).to(self.dtype)
        patches = self.dino.patch_embed(images).float() + position.flatten(0, 1)
        x = torch.cat((self.front.expand(frames.shape[0], -1, -1), patches), dim=1).to(self.dtype)
        for block in self.dino.blocks:
            x = block(x)
        tokens: Tensor = self.dino.norm(x[:, self.dino.skipped :])
        return tokens.reshape(frames.shape[0], h, w, -1)


class Pi3FramesExport(nn.Module):
    """DINOv2 and the decoder's blocks that see one frame."""

    def __init__(self, pi3: Pi3Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.dino = DinoExport(pi3.encoder, dtype)
        # The other blocks are the decoder's.
        pi3.encoder, pi3.decoder = nn.Identity(), pi3.decoder[: pi3.config.frame_blocks]  # type: ignore[assignment]
        fold_layer_scale(pi3)
        self.pi3 = pi3.to(dtype)

    def forward(
        self, frames: Tensor, position: Tensor, rope_cos: Tensor, rope_sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `DinoExport` with table (h, w, D) float32; patches (B, h, w, C) and registers (B, r, C)."""
        rope = _frame_rope(rope_cos, rope_sin, self.pi3.config.decoder_registers)
        tables = Pi3Tables(pos_embed=position, frame_rope=rope, window_rope=rope)
        return self.pi3.decode_frames(self.dino(frames, position), tables)


class Pi3DecoderExport(nn.Module):
    """The Pi3 decoder; the RoPE table of the grid comes from outside."""

    def __init__(self, pi3: Pi3Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        fold_layer_scale(pi3)
        self.pi3 = pi3.to(dtype)

    def forward(self, tokens: Tensor, rope_cos: Tensor, rope_sin: Tensor) -> Tensor:
        """Tokens (B, T, h, w, C) and table (h, w, D) float32 to features (B, h, w, C)."""
        return self.pi3.decode_window(tokens, self._tables(rope_cos, rope_sin))

    def _tables(self, cos: Tensor, sin: Tensor) -> Pi3Tables:
        config = self.pi3.config
        frame = _frame_rope(cos, sin, config.decoder_registers)
        return Pi3Tables(pos_embed=cos, frame_rope=frame, window_rope=frame.repeat(config.window))


class Pi3RestExport(Pi3DecoderExport):
    """The blocks of the Pi3 decoder behind those of `Pi3FramesExport`."""

    def forward(  # type: ignore[override]
        self, tokens: Tensor, registers: Tensor, rope_cos: Tensor, rope_sin: Tensor
    ) -> Tensor:
        """The same with registers (B, T, r, C)."""
        return self.pi3.decode_window(tokens, self._tables(rope_cos, rope_sin), registers)


class Sam2EncoderExport(nn.Module):
    """SAM2's image encoder at its one resolution."""

    position: Tensor

    def __init__(self, predictor: FeaturePredictor, dtype: torch.dtype) -> None:
        super().__init__()
        encoder, side = predictor.image_encoder, predictor.image_size // 4
        with torch.no_grad():
            position = encoder.trunk._get_pos_embed((side, side))
        # Nothing of the encoder's position maps is read here.
        encoder.neck.position_encoding = nn.Identity()
        self.trunk, self.neck = encoder.trunk.to(dtype), encoder.neck.to(dtype)
        self.scalp: int = encoder.scalp
        decoder = predictor.sam_mask_decoder
        self.conv_s0, self.conv_s1 = decoder.conv_s0.to(dtype), decoder.conv_s1.to(dtype)
        self.dtype = dtype
        self.register_buffer("position", position.to(dtype))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, S, S) float32 to s0, s1 and f."""
        x = self.trunk.patch_embed(images.to(self.dtype)) + self.position
        stages = []
        for i, block in enumerate(self.trunk.blocks):
            x = block(x)
            if i in self.trunk.stage_ends:
                stages.append(x.permute(0, 3, 1, 2))
        levels, _ = self.neck(stages)
        s0, s1, f = (level.to(self.dtype) for level in levels[: len(levels) - self.scalp])
        return self.conv_s0(s0), self.conv_s1(s1), f


class ProposerExport(nn.Module):
    """The proposer with its K best queries; masks and scores are computed for those only."""

    no_mem_embed: Tensor

    def __init__(self, network: HeadNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        if not isinstance(network.head, GmosProposer):
            raise TypeError("ProposerExport takes a GmosProposer")
        cast_weights(network, dtype)
        self.head, self.kept, self.dtype = network.head, network.kept, dtype
        self.register_buffer("no_mem_embed", network.no_mem_embed)

    def forward(self, geometry: Tensor, s0: Tensor, s1: Tensor, f: Tensor) -> Proposals:
        """See `gmos_ref.networks.HeadNetwork`."""
        head = self.head
        tokens = head.encode(geometry.to(self.dtype), f.to(self.dtype) + self.no_mem_embed)
        queries, image = head.trans_decoder(head.obj_token, tokens)
        motion, order = head.motion_head(queries).squeeze(-1).float().topk(self.kept, dim=1)
        kept = queries.gather(1, order.unsqueeze(-1).expand(-1, -1, queries.shape[-1]))
        shift = head.motion_weight.float() * (motion.sigmoid() - head.motion_bias.float())
        masks = head.upsampling(kept, image, s0.to(self.dtype), s1.to(self.dtype)).float()
        return Proposals(
            mask_logits=masks + shift[..., None, None],
            motion_logits=motion,
            ious=head.iou_head(kept).squeeze(-1).float(),
            confidences=confidence(head.conf_head(kept).float()).squeeze(-1),
        )


class GmosSExport(nn.Module):
    """GMOS-S on the encoders' own outputs."""

    no_mem_embed: Tensor

    def __init__(self, network: HeadNetwork, dtype: torch.dtype) -> None:
        super().__init__()
        if not isinstance(network.head, GmosS):
            raise TypeError("GmosSExport takes a GmosS")
        cast_weights(network, dtype)
        self.head, self.dtype = network.head, dtype
        self.register_buffer("no_mem_embed", network.no_mem_embed)

    def forward(self, geometry: Tensor, s0: Tensor, s1: Tensor, f: Tensor) -> Foreground:
        """See `gmos_ref.networks.HeadNetwork`."""
        maps = (geometry, f.to(self.dtype) + self.no_mem_embed, s0, s1)
        out = self.head(*(x.to(self.dtype) for x in maps))
        return Foreground(*(x.float() for x in out))


Builder = Callable[[ReferenceNetworks, ModelSpec, torch.dtype], nn.Module]
"""Makes a module on copies of the reference's weights, for the sizes and the precision given."""


def _tracker(name: NetworkName) -> Builder:
    def build(networks: ReferenceNetworks, _model: ModelSpec, dtype: torch.dtype) -> nn.Module:
        # They are views on the predictor's parameters, so it is the predictor that is copied; its trunk
        # is the image encoder's and nine tenths of its size. Tables are computed before the conversion.
        trunk = networks.sam2.image_encoder.trunk
        predictor = copy.deepcopy(networks.sam2, {id(trunk): nn.Identity()})
        return tracker_networks(predictor)[name].to(dtype)

    return build


def _decoder(networks: ReferenceNetworks, _model: ModelSpec, dtype: torch.dtype) -> nn.Module:
    # Without DINOv2, which would double the copy's size for nothing.
    frames = networks.pi3.decoder[: networks.pi3.config.frame_blocks]
    decoder = copy.deepcopy(
        networks.pi3, {id(part): nn.Identity() for part in (networks.pi3.encoder, *frames)}
    )
    return (Pi3RestExport if len(frames) else Pi3DecoderExport)(decoder, dtype)


def _dino(networks: ReferenceNetworks, _model: ModelSpec, dtype: torch.dtype) -> nn.Module:
    if not networks.pi3.config.frame_blocks:
        return DinoExport(copy.deepcopy(networks.pi3.encoder), dtype)
    blocks = networks.pi3.decoder[networks.pi3.config.frame_blocks :]
    return Pi3FramesExport(copy.deepcopy(networks.pi3, {id(block): nn.Identity() for block in blocks}), dtype)


def _head(networks: ReferenceNetworks, model: ModelSpec) -> HeadNetwork:
    return HeadNetwork(copy.deepcopy(networks.head), networks.sam2.no_mem_embed, model.kept_queries)


MODULES: Mapping[NetworkName, Builder] = {
    "dino": _dino,
    "pi3_decoder": _decoder,
    "sam2_encoder": lambda networks, _, dtype: Sam2EncoderExport(copy.deepcopy(networks.sam2), dtype),
    "proposer": lambda networks, model, dtype: ProposerExport(_head(networks, model), dtype),
    "gmos_s": lambda networks, model, dtype: GmosSExport(_head(networks, model), dtype),
    "mask_prompt": _tracker("mask_prompt"),
    "memory_attention": _tracker("memory_attention"),
    "mask_decoder": _tracker("mask_decoder"),
    "memory_encoder": _tracker("memory_encoder"),
}
"""The contract's networks that have weights; the others are `small_graphs.SMALL_GRAPHS`."""

WEIGHTS_OF: Mapping[NetworkName, str] = {
    **dict.fromkeys(("dino", "pi3_decoder"), "pi3_ckpt"),
    **dict.fromkeys(
        ("sam2_encoder", "mask_prompt", "memory_attention", "mask_decoder", "memory_encoder"), "sam2_ckpt"
    ),
    "proposer": "gmos_ckpt",
    "gmos_s": "gmos_s_ckpt",
}
"""The checkpoint that a network's weights are from. The heads have one vector of SAM2's, `no_mem_embed`, too."""
