"""SAM2's tracker as the five networks of the contract, each a view on the predictor's weights.

The cut is where the recurrent state passes through the memory bank on the host. A network takes the
contract's tensors in their order and returns its outputs in theirs. The features of a frame come with
a batch of 1 and serve all objects of a call, so what does not depend on the object is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor, nn
from torch.nn import functional as F

from ...runtime.contract import ModelSpec, NetworkName, NetworkSpec, network_specs
from ...runtime.tracker import LABEL_THRESHOLD_LOGIT
from ..attention import RopeTable
from .model import FeaturePredictor
from .tracker_layers import Float32Tables, MemoryLayer, shared_axial_table, with_shared_layers

PROMPT_LOGIT = 10.0
"""Logit of a prompt's pixels, and minus it elsewhere (published SAM2 code)."""

STENCIL = (1.0, 3.0, 5.0, 7.0, 7.0, 5.0, 3.0, 1.0)
"""Triangle filter of an antialiased bilinear resize to a quarter, times 32; taps start 2 px early."""

POINTS_OF_NO_PROMPT = 2
"""SAM pads an absent point prompt to this many empty points."""

ASSUMED_OPTIONS: dict[str, object] = {
    "add_all_frames_to_correct_as_cond": False,
    "add_tpos_enc_to_obj_ptrs": True,
    "binarize_mask_from_pts_for_mem_enc": True,
    "clear_non_cond_mem_around_input": False,
    "directly_add_no_mem_embed": True,
    "fixed_no_obj_ptr": True,
    "memory_temporal_stride_for_eval": 1,
    "multimask_output_for_tracking": True,
    "multimask_output_in_sam": True,
    "non_overlap_masks": False,
    "non_overlap_masks_for_mem_enc": False,
    "only_obj_ptrs_in_the_past_for_eval": True,
    "pred_obj_scores": True,
    "proj_tpos_enc_in_obj_ptrs": True,
    "soft_no_obj_ptr": False,
    "use_high_res_features_in_sam": True,
    "use_mask_input_as_output_without_sam": True,
    "use_multimask_token_for_obj_ptr": True,
    "use_obj_ptrs_in_encoder": True,
    "use_signed_tpos_enc_to_obj_ptrs": True,
}
"""Options of the package's predictor that these networks and the memory bank are written for (SAM2.1)."""


def tracker_networks(predictor: FeaturePredictor) -> dict[NetworkName, nn.Module]:
    """The networks of the contract by name, on the predictor's device and parameters.

    To change their precision, copy them first: the parameters are the predictor's own.

    Raises:
        ValueError: the predictor was built with options other than those of SAM2.1.
    """
    for name, expected in ASSUMED_OPTIONS.items():
        if (found := getattr(predictor, name)) != expected:
            raise ValueError(f"SAM2 option {name} is {found}, expected {expected} as in SAM2.1")
    networks: dict[NetworkName, nn.Module] = {
        "mask_prompt": MaskPromptNetwork(predictor),
        "memory_attention": MemoryAttentionNetwork(predictor),
        "mask_decoder": MaskDecoderNetwork(predictor),
        "memory_encoder": MemoryEncoderNetwork(predictor),
        "tracked_labels": TrackedLabelsNetwork(),
    }
    return {name: network.to(predictor.device).eval() for name, network in networks.items()}


def tracker_runners(
    model: ModelSpec, predictor: FeaturePredictor
) -> dict[str, Callable[[Mapping[str, Any]], dict[str, Tensor]]]:
    """The networks as functions of tensors by name to tensors by name, as the contract has them."""
    specs, networks = network_specs(model), tracker_networks(predictor)
    return {name: _by_name(specs[name], network) for name, network in networks.items()}


def _by_name(spec: NetworkSpec, network: nn.Module) -> Callable[[Mapping[str, Any]], dict[str, Tensor]]:
    def call(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        outputs = network(*(inputs[tensor.name] for tensor in spec.inputs))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return dict(zip((tensor.name for tensor in spec.outputs), outputs, strict=True))

    return call


def tracked_labels(masks: Tensor, video_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mask logits (O, m, m) at the video's size: where each is positive, and whose each pixel is.

    Returns:
        (O, H, W) uint8, 1 where the logit is above 0; and (H, W) uint8, 0 or 1 + the position of the
        arg-max object where its logit is above `LABEL_THRESHOLD_LOGIT`.
    """
    logits = F.interpolate(masks.float()[None], video_hw, mode="bilinear", align_corners=False)[0]
    best, position = logits.max(dim=0)
    labels = torch.where(best > LABEL_THRESHOLD_LOGIT, position + 1, 0)
    return (logits > 0).to(torch.uint8), labels.to(torch.uint8)


def quarter(x: Tensor) -> Tensor:
    """(O, S, S) resized to (O, S/4, S/4), bilinear with antialiasing.

    By a whole factor that is a fixed filter along each axis. On 0 and 1 every sum is exact in float32,
    and at the border the filter loses taps, so its sum is divided by the weight that is left.
    """
    for _ in range(2):
        # 2 px of padding and 8 taps every 4 px: each output reads two neighbouring blocks of four.
        blocks = F.pad(x, (2, 2)).unflatten(-1, (-1, 4))
        first, second = x.new_tensor(STENCIL).view(2, 4)
        sums = (blocks * first).sum(-1)[..., :-1] + (blocks * second).sum(-1)[..., 1:]
        weight = sums.new_full((sums.shape[-1],), sum(STENCIL))
        weight[0] = weight[-1] = sum(STENCIL[2:])
        x = (sums / weight).transpose(1, 2)
    return x


class ObjectDecoder(Float32Tables):
    """SAM's two-way transformer on a frame: what its tokens say about the object there."""

    grid_positions: Tensor

    def __init__(self, predictor: FeaturePredictor) -> None:
        super().__init__()
        decoder, prompts = predictor.sam_mask_decoder, predictor.sam_prompt_encoder
        self.transformer = with_shared_layers(decoder.transformer)
        self.obj_score_token, self.iou_token = decoder.obj_score_token, decoder.iou_token
        self.mask_tokens, self.no_point = decoder.mask_tokens, prompts.not_a_point_embed
        self.score_head = decoder.pred_obj_score_head
        self.pointer_projection = predictor.obj_ptr_proj
        self.no_object_pointer = predictor.no_obj_ptr
        self.add_table("grid_positions", prompts.get_dense_pe())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Ask the image about the object.

        Args:
            image: (O, C, g, g) features plus the embedding of the mask prompt, or of its absence.

        Returns:
            The image after the transformer (O, C, g, g), the IoU token (O, C), the mask tokens
            (O, 4, C), the object score (O, 1) and whether it is above 0 (O, 1).
        """
        asked = (self.obj_score_token, self.iou_token, self.mask_tokens)
        no_points = [self.no_point.weight] * POINTS_OF_NO_PROMPT
        tokens = torch.cat([*(token.weight for token in asked), *no_points])
        tokens = tokens[None].expand(image.shape[0], -1, -1)
        answers, seen = self.transformer(image, self.grid_positions.to(image.dtype), tokens)
        score = self.score_head(answers[:, 0])
        mask_tokens = answers[:, 2 : 2 + self.mask_tokens.num_embeddings]
        seen = seen.transpose(1, 2).unflatten(2, image.shape[2:])
        return seen, answers[:, 1], mask_tokens, score, score > 0

    def pointer(self, mask_token: Tensor, visible: Tensor) -> Tensor:
        """The object pointer (O, C) from a mask token (O, C), where the object is visible (O, 1)."""
        pointer = self.pointer_projection(mask_token)
        return torch.where(visible, pointer, self.no_object_pointer.to(pointer.dtype))


class MaskPromptNetwork(nn.Module):
    """A given mask as the tracker's output: its logits, the pointer to the object, its score.

    The package runs SAM's mask decoder for the pointer alone, and here the masks that it would predict
    are not computed: s0 and s1 are not needed.
    """

    def __init__(self, predictor: FeaturePredictor) -> None:
        super().__init__()
        self.decoder = ObjectDecoder(predictor)
        self.mask_downsample = predictor.mask_downsample
        self.mask_embedding = with_shared_layers(predictor.sam_prompt_encoder.mask_downscaling)

    def forward(self, prompt: Tensor, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take masks of one frame.

        Args:
            prompt: (O, S, S) uint8, 0 or 1.
            f: (1, C, g, g).

        Returns:
            Mask logits (O, m, m) float32, pointers (O, C), object scores (O,) float32.
        """
        mask = prompt.float()
        smaller = self.mask_downsample(mask[:, None].to(self.mask_downsample.weight.dtype))
        _, _, mask_tokens, _, visible = self.decoder(f + self.mask_embedding(smaller))
        given = mask.amax(dim=(1, 2)) > 0
        pointer = self.decoder.pointer(mask_tokens[:, 0], visible & given[:, None])
        logits = quarter(mask) * (2 * PROMPT_LOGIT) - PROMPT_LOGIT
        return logits, pointer, torch.where(given, PROMPT_LOGIT, -PROMPT_LOGIT)


class MemoryAttentionNetwork(Float32Tables):
    """The features of a frame conditioned on each object's memories and pointers."""

    frame_positions: Tensor
    spatial: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(self, predictor: FeaturePredictor) -> None:
        super().__init__()
        attention = predictor.memory_attention
        grid, memory_channels = predictor.sam_image_embedding_size, predictor.mem_dim
        self.layers = nn.ModuleList(MemoryLayer(layer) for layer in attention.layers)
        self.norm = attention.norm
        self.temporal = predictor.maskmem_tpos_enc
        self.pointer_position_projection = predictor.obj_ptr_tpos_proj
        self.memory_channels = memory_channels
        frame_positions = predictor.image_encoder.neck.position_encoding(torch.zeros(1, 1, grid, grid))
        self.add_table("frame_positions", frame_positions.flatten(2).transpose(1, 2))
        memory_positions = predictor.memory_encoder.position_encoding(torch.zeros(1, 1, grid, grid))
        self.add_table("spatial", memory_positions.flatten(2).transpose(1, 2))
        rotation = shared_axial_table(attention.layers, grid)
        self.add_table("cos", rotation.cos)
        self.add_table("sin", rotation.sin)

    def forward(
        self,
        f: Tensor,
        memories: Tensor,
        memory_positions: Tensor,
        pointers: Tensor,
        pointer_distances: Tensor,
    ) -> Tensor:
        """Condition one frame on O objects.

        Args:
            f: (1, C, g, g).
            memories: (O, R, M, g, g).
            memory_positions: (O, R) int64, rows of the temporal table.
            pointers: (O, P, C); P may be 0.
            pointer_distances: (O, P) float32.

        Returns:
            (O, C, g, g).
        """
        x = f.flatten(2).transpose(1, 2)
        # The package adds a tenth of the positions (SAM2 memory attention, pos_enc_at_input).
        x = (x.float() + 0.1 * self.frame_positions).to(f.dtype)
        memories = memories.flatten(3).transpose(2, 3)
        temporal = F.embedding(memory_positions, self.temporal.flatten(0, 2)).float()
        positioned = (memories.float() + (self.spatial + temporal[:, :, None])).to(memories.dtype)
        tokens, positioned_tokens = self._pointer_tokens(pointers, pointer_distances)
        values = torch.cat((memories.flatten(1, 2), tokens), dim=1)
        keys = torch.cat((positioned.flatten(1, 2), positioned_tokens), dim=1)
        table = RopeTable(cos=self.cos, sin=self.sin)
        key_table = self._key_table(memories.shape[1], tokens.shape[1])
        for layer in self.layers:
            x = layer(x, keys, values, table, key_table)
        return self.norm(x).transpose(1, 2).unflatten(2, f.shape[2:])

    def _key_table(self, memories: int, pointer_tokens: int) -> RopeTable:
        """Each memory turns as the grid it is; pointers have no place in it and do not turn."""
        still = self.cos.new_ones((pointer_tokens, self.cos.shape[1]))
        return RopeTable(
            cos=torch.cat((self.cos.repeat(memories, 1), still)),
            sin=torch.cat((self.sin.repeat(memories, 1), 0 * still)),
        )

    def _pointer_tokens(self, pointers: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """A pointer (C,) as C/M tokens of M channels, without and with their temporal position."""
        width = pointers.shape[-1]
        angles = get_1d_sine_pe(distances, dim=width).to(self.pointer_position_projection.weight.dtype)
        positions = self.pointer_position_projection(angles)
        tokens = pointers.unflatten(-1, (-1, self.memory_channels))
        positioned = (tokens.float() + positions[:, :, None].float()).to(tokens.dtype)
        return tokens.flatten(1, 2), positioned.flatten(1, 2)


class MaskDecoderNetwork(nn.Module):
    """The object's mask on a frame: the best of the decoder's three by its own estimate."""

    def __init__(self, predictor: FeaturePredictor) -> None:
        super().__init__()
        decoder = predictor.sam_mask_decoder
        self.decoder = ObjectDecoder(predictor)
        upscaling = with_shared_layers(decoder.output_upscaling).children()
        self.first, self.norm, self.activation, self.second, self.last_activation = upscaling
        self.mask_mlps = decoder.output_hypernetworks_mlps
        self.iou_head = decoder.iou_prediction_head
        self.no_mask = predictor.sam_prompt_encoder.no_mask_embed

    def forward(self, conditioned: Tensor, s0: Tensor, s1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode O objects on one frame.

        Args:
            conditioned: (O, C, g, g) from memory attention.
            s0: (1, C/8, m, m).
            s1: (1, C/4, m/2, m/2).

        Returns:
            Mask logits (O, m, m), best IoUs (O,), pointers (O, C), object scores (O,); all but the
            pointers float32. Without an object the mask is `NO_OBJ_SCORE` everywhere.
        """
        image, iou_token, mask_tokens, score, visible = self.decoder(
            conditioned + self.no_mask.weight.view(1, -1, 1, 1)
        )
        # Mask 0 is for unambiguous point prompts: tracking takes the best of the others.
        ious = self.iou_head(iou_token)[:, 1:].float()
        best = ious.argmax(dim=1)[:, None, None]
        token = mask_tokens[:, 1:].gather(1, best.expand(-1, -1, mask_tokens.shape[-1]))[:, 0]
        kernels = torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.mask_mlps) if i], dim=1)
        kernel = kernels.gather(1, best.expand(-1, -1, kernels.shape[-1]))
        upscaled = self._upscale(image, s0, s1)
        masks = (kernel @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])[:, 0].float()
        masks = torch.where(visible[:, :, None], masks, NO_OBJ_SCORE)
        return masks, ious.amax(dim=1), self.decoder.pointer(token, visible), score[:, 0].float()

    def _upscale(self, image: Tensor, s0: Tensor, s1: Tensor) -> Tensor:
        finer = self.activation(self.norm(self.first(image) + s1))
        return self.last_activation(self.second(finer) + s0)


class MemoryEncoderNetwork(nn.Module):
    """What an object looked like on a frame, to be read by later frames."""

    def __init__(self, predictor: FeaturePredictor) -> None:
        super().__init__()
        encoder = predictor.memory_encoder
        self.image_px = predictor.image_size
        self.mask_scale = predictor.sigmoid_scale_for_mem_enc
        self.mask_bias = predictor.sigmoid_bias_for_mem_enc
        self.frame_projection = encoder.pix_feat_proj
        self.mask_downsampler = with_shared_layers(encoder.mask_downsampler)
        self.fuser = with_shared_layers(encoder.fuser)
        self.output_projection = encoder.out_proj
        self.no_object = predictor.no_obj_embed_spatial

    def forward(self, f: Tensor, masks: Tensor, score: Tensor, prompted: Tensor) -> Tensor:
        """Remember O objects on one frame.

        Args:
            f: (1, C, g, g).
            masks: (O, m, m) float32 logits.
            score: (O,) float32, above 0 where the object is visible.
            prompted: (O,) float32, 1 where the mask was given: it is taken as 0 and 1.

        Returns:
            (O, M, g, g).
        """
        size = (self.image_px, self.image_px)
        logits = F.interpolate(masks[:, None].float(), size, mode="bilinear", align_corners=False)
        given = prompted[:, None, None, None] > 0
        mask = torch.where(given, (logits > 0).float(), logits.sigmoid())
        mask = (mask * self.mask_scale + self.mask_bias).to(self.frame_projection.weight.dtype)
        memory = self.output_projection(self.fuser(self.frame_projection(f) + self.mask_downsampler(mask)))
        hidden = (score <= 0)[:, None, None, None].to(memory.dtype)
        return memory + hidden * self.no_object.view(1, -1, 1, 1).to(memory.dtype)


class TrackedLabelsNetwork(nn.Module):
    """See `tracked_labels`."""

    def forward(self, masks: Tensor, video_hw: Tensor) -> tuple[Tensor, Tensor]:
        """(O, m, m) logits and (2,) int64 height and width to (O, H, W) and (H, W) uint8."""
        height, width = video_hw.tolist()
        return tracked_labels(masks, (height, width))
