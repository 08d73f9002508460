"""SAM2.1 from the `sam2` package, fed with stored features and reporting object IoUs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from ...runtime.tracker import FrameFeatures
from ..presets import Sam2Config

State = dict[str, Any]
"""The inference state that the package threads through its methods."""


class FeaturePredictor(SAM2VideoPredictor):
    """The package's video predictor without its image loading and re-encoding.

    Differences from the package (rf-sam-2 1.0.3), all of them outside the networks:
    features of a frame come from a store; memories keep the dtype they were computed in, where the
    package casts to bfloat16, which loses precision in float32 runs; each output carries the object
    IoU, the largest IoU that the mask decoder predicts for the step, NaN where score or mask is not finite;
    masks stay at the model's size.
    """

    def new_state(self, features: FrameFeatures, *, frames: int, video_hw: tuple[int, int]) -> State:
        """An empty inference state for a video whose features are in `features`."""
        return {
            "features": features,
            "num_frames": frames,
            "video_height": video_hw[0],
            "video_width": video_hw[1],
            "device": self.device,
            "storage_device": self.device,
            "constants": {},
            "obj_id_to_idx": OrderedDict(),
            "obj_idx_to_id": OrderedDict(),
            "obj_ids": [],
            "point_inputs_per_obj": {},
            "mask_inputs_per_obj": {},
            "output_dict_per_obj": {},
            "temp_output_dict_per_obj": {},
            "frames_tracked_per_obj": {},
        }

    def encode_image(self, images: Tensor) -> dict[str, Tensor]:
        """s0, s1 and f of normalised images (B, 3, S, S), without `no_mem_embed`.

        Shapes (B, C/8, S/4, S/4), (B, C/4, S/8, S/8) and (B, C, S/16, S/16).
        """
        s0, s1, f = self.forward_image(images)["backbone_fpn"]
        return {"s0": s0, "s1": s1, "f": f}

    @property
    def memory_reach_frames(self) -> int:
        """How many frames away a memory or an object pointer can still be read."""
        return max(self.num_maskmem, self.max_obj_ptrs_in_encoder)

    def _consolidate_temp_output_across_obj(
        self, inference_state: State, frame_idx: int, is_cond: bool, **_: bool
    ) -> State:
        """The answer to a prompt at the model's size; the package resizes all objects at every prompt.

        Resizing later gives the same: each mask is resized alone, and missing ones are constant.
        """
        masks = super()._consolidate_temp_output_across_obj(
            inference_state, frame_idx, is_cond=is_cond, consolidate_at_video_res=False
        )["pred_masks"]
        return {"pred_masks_video_res": masks}

    def _get_orig_video_res_output(
        self,
        inference_state: State,  # noqa: ARG002 - the package's signature
        any_res_masks: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The masks as they are: the tracker resizes the answers that are read."""
        return any_res_masks, any_res_masks

    def _get_image_feature(
        self, inference_state: State, frame_idx: int, batch_size: int
    ) -> tuple[None, None, list[Tensor], list[Tensor], list[tuple[int, int]]]:
        stored: Mapping[str, Tensor] = inference_state["features"].get(frame_idx)
        maps = [stored[name][None].expand(batch_size, -1, -1, -1) for name in ("s0", "s1", "f")]
        f = maps[-1]
        # Only the coarsest map's positions are ever read (memory attention).
        position = self.image_encoder.neck.position_encoding(f[:1]).to(f.dtype)
        return (
            None,
            None,
            [_tokens(level) for level in maps],
            [_tokens(position.expand(batch_size, -1, -1, -1))],
            [(level.shape[-2], level.shape[-1]) for level in maps],
        )

    def _track_step(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        current_out, sam_outputs, *rest = super()._track_step(*args, **kwargs)
        _, _, ious, masks, _, _, score = sam_outputs
        # A score of NaN hides its object: nothing else would tell of it.
        finite = score.isfinite().all(dim=-1) & masks.flatten(1).isfinite().all(dim=-1)
        object_iou = ious.float().amax(dim=-1).masked_fill(~finite, torch.nan)
        return ({**current_out, "object_iou": object_iou}, sam_outputs, *rest)

    def _run_single_frame_inference(
        self, inference_state: State, output_dict: State, frame_idx: int, batch_size: int, **step: Any
    ) -> tuple[State, Tensor]:
        _, _, features, positions, sizes = self._get_image_feature(inference_state, frame_idx, batch_size)
        reverse = step.pop("reverse")
        out = self.track_step(
            frame_idx=frame_idx,
            current_vision_feats=features,
            current_vision_pos_embeds=positions,
            feat_sizes=sizes,
            output_dict=output_dict,
            num_frames=inference_state["num_frames"],
            track_in_reverse=reverse,
            **step,
        )
        kept = ("maskmem_features", "pred_masks", "obj_ptr", "object_score_logits", "object_iou")
        compact = {name: out[name] for name in kept}
        compact["maskmem_pos_enc"] = self._get_maskmem_pos_enc(inference_state, out)
        return compact, out["pred_masks"]

    def _run_memory_encoder(  # noqa: PLR0917 - the package's signature
        self,
        inference_state: State,
        frame_idx: int,
        batch_size: int,
        high_res_masks: Tensor,
        object_score_logits: Tensor,
        is_mask_from_pts: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        _, _, features, _, sizes = self._get_image_feature(inference_state, frame_idx, batch_size)
        memory, positions = self._encode_new_memory(
            current_vision_feats=features,
            feat_sizes=sizes,
            pred_masks_high_res=high_res_masks,
            object_score_logits=object_score_logits,
            is_mask_from_pts=is_mask_from_pts,
        )
        return memory, self._get_maskmem_pos_enc(inference_state, {"maskmem_pos_enc": positions})


def _tokens(feature_map: Tensor) -> Tensor:
    """(B, C, h, w) as (h*w, B, C), the layout of the package's transformers."""
    return feature_map.flatten(2).permute(2, 0, 1)


def build_sam2(config: Sam2Config) -> FeaturePredictor:
    """The predictor of a configuration on the CPU, in eval mode, with the package's initial weights.

    Post-processing options are those of the package's video predictor, without hole filling.
    """
    predictor = build_sam2_video_predictor(
        config.config,
        device="cpu",
        hydra_overrides_extra=[
            f"++model._target_={FeaturePredictor.__module__}.{FeaturePredictor.__qualname__}",
            *config.overrides,
        ],
    )
    # The package appends its own fill_hole_area override after ours, so it is set here.
    predictor.fill_hole_area = 0
    predictor.requires_grad_(requires_grad=False)
    return predictor
