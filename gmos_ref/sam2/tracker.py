"""The runtime's tracker interface on the SAM2 video predictor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from numpy.typing import NDArray
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from torch import Tensor
from torch.nn import functional as F

from ...runtime.pipeline.mask_upsampling import argmax_labels_and_masks
from ...runtime.tracker import LABEL_THRESHOLD_LOGIT, FrameFeatures, Prompt, TrackerStep, frames_from
from .model import FeaturePredictor, State

Answer = tuple[Tensor, Tensor]
"""Mask logits (O, 1, height, width) and object IoUs (O,), both float32."""


class Sam2Tracker:
    """Tracks the objects of one video, or of a stream (`frames` None), one by one, as the `sam2` package does.

    Memories that no step of a forward pass, or of a backward pass from the same start, can read any
    more are dropped, so memory does not grow with the video. `context` makes the context in which
    the networks run, such as autocast. Of its conditioning memories a frame reads at most
    `max_conditioning`; None: all. Memories are kept `look_back` frames longer, from where tracking may resume.
    """

    def __init__(
        self,
        predictor: FeaturePredictor,
        features: FrameFeatures,
        *,
        frames: int | None,
        video_hw: tuple[int, int],
        context: Callable[[], AbstractContextManager[None]],
        max_conditioning: int | None = None,
        look_back: int = 0,
    ) -> None:
        self._predictor = predictor
        self._frames = frames
        self._video_hw = video_hw
        self._context = context
        self._max_conditioning = -1 if max_conditioning is None else max_conditioning
        self._reach = predictor.memory_reach_frames + look_back
        self._state = predictor.new_state(
            features, frames=sys.maxsize if frames is None else frames, video_hw=video_hw
        )

    def prompt(self, frame: int, prompts: Sequence[Prompt]) -> TrackerStep:
        """See `runtime.tracker.Tracker.prompt`."""
        return self._step(frame, self._prompt_all(frame, prompts))

    def add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:
        """See `runtime.tracker.Tracker.add_prompts`."""
        self._prompt_all(frame, prompts)

    def propagate(
        self,
        start: int,
        *,
        reverse: bool = False,
        unprompted: bool = False,  # noqa: ARG002 - this tracker starts no frame ahead
    ) -> Iterator[TrackerStep]:
        """See `runtime.tracker.Tracker.propagate`."""
        for frame, answer in self._propagate_masks(start, reverse=reverse):
            yield self._step(frame, answer)

    def reset(self) -> None:
        """See `runtime.tracker.Tracker.reset`."""
        self._predictor.reset_state(self._state)

    @torch.inference_mode()
    def forget(self, object_ids: Sequence[int]) -> None:
        """See `runtime.tracker.LiveTracker.forget`."""
        for object_id in object_ids:
            self._predictor.remove_object(self._state, object_id, strict=True, need_output=False)

    def prompt_mask(self, frame: int, prompt: Prompt) -> Answer:
        """Add one prompt and return the answer for all objects at the video's size."""
        masks, ious = self._prompt(frame, prompt)
        return self._video_size(masks), ious

    def _prompt_all(self, frame: int, prompts: Sequence[Prompt]) -> Answer:
        if not prompts:
            raise ValueError("prompting needs at least one prompt")
        return [self._prompt(frame, prompt) for prompt in prompts][-1]

    @torch.inference_mode()
    def _prompt(self, frame: int, prompt: Prompt) -> Answer:
        """Add one prompt and return the answer for all objects at the model's size."""
        state, known = self._state, self._state["obj_id_to_idx"].get(prompt.object_id)
        # A first prompt on a frame not yet tracked is a conditioning memory; one on a tracked frame
        # is kept as a non-conditioning memory. The answer reads new outputs of the same kind only.
        conditioning = known is None or frame not in state["frames_tracked_per_obj"][known]
        with self._context():
            _, _, logits = self._predictor.add_new_mask(
                state, frame, prompt.object_id, torch.from_numpy(prompt.mask)
            )
        kind = "cond_frame_outputs" if conditioning else "non_cond_frame_outputs"
        ious = [self._object_iou(state, o, frame, kind) for o in range(len(state["obj_ids"]))]
        return logits.float(), torch.stack(ious)

    def propagate_logits(self, start: int, *, reverse: bool = False) -> Iterator[tuple[int, Answer]]:
        """The frames of `propagate` with mask logits at the video's size and object IoUs."""
        for frame, (masks, ious) in self._propagate_masks(start, reverse=reverse):
            yield frame, (self._video_size(masks), ious)

    def _propagate_masks(self, start: int, *, reverse: bool) -> Iterator[tuple[int, Answer]]:
        """The frames of `propagate` with mask logits at the model's size and object IoUs."""
        self._begin(start)
        for frame in range(start, -1, -1) if reverse else frames_from(start, self._frames):
            yield frame, self._track(frame, reverse=reverse)
            self._forget(frame, start, reverse=reverse)

    @torch.inference_mode()
    def _begin(self, start: int) -> None:
        with self._context():
            self._predictor.propagate_in_video_preflight(self._state)
        reach = self._reach
        for outputs in self._state["output_dict_per_obj"].values():
            memories = outputs["non_cond_frame_outputs"]
            for frame in [t for t in memories if abs(t - start) > reach]:
                del memories[frame]
        if self._frames is None:
            self._forget_passed(start - 1)

    @torch.inference_mode()
    def _track(self, frame: int, *, reverse: bool) -> Answer:
        state = self._state
        # The predictor is that of all videos.
        self._predictor.max_cond_frames_in_attn = self._max_conditioning
        masks, ious = [], []
        for o, outputs in state["output_dict_per_obj"].items():
            out = outputs["cond_frame_outputs"].get(frame)
            if out is None:
                with self._context():
                    out, _ = self._predictor._run_single_frame_inference(
                        state,
                        outputs,
                        frame,
                        1,
                        is_init_cond_frame=False,
                        point_inputs=None,
                        mask_inputs=None,
                        reverse=reverse,
                        run_mem_encoder=True,
                    )
                outputs["non_cond_frame_outputs"][frame] = out
            state["frames_tracked_per_obj"][o][frame] = {"reverse": reverse}
            masks.append(out["pred_masks"])
            ious.append(out["object_iou"][0])
        return torch.cat(masks).float(), torch.stack(ious)

    def _forget(self, frame: int, start: int, *, reverse: bool) -> None:
        """Drop the memory that has just left the reach of this pass and of one back from its start."""
        if self._frames is None:
            self._forget_passed(frame)
            return
        reach = self._reach
        old = frame + reach + 1 if reverse else frame - reach - 1
        if abs(old - start) > reach:
            for outputs in self._state["output_dict_per_obj"].values():
                outputs["non_cond_frame_outputs"].pop(old, None)

    def _forget_passed(self, frame: int) -> None:
        """Of a stream that has got past `frame`, keep what later frames read."""
        predictor, state = self._predictor, self._state
        # Seen from the next frame, outputs count as 1, 2, .. frames away.
        oldest_memory, oldest_pointer = (
            frame + 2 - reach for reach in (predictor.num_maskmem, predictor.max_obj_ptrs_in_encoder)
        )
        for name in ("frames_tracked_per_obj", "mask_inputs_per_obj"):
            for frames in state[name].values():
                for t in [t for t in frames if t <= frame]:
                    del frames[t]
        for outputs in state["output_dict_per_obj"].values():
            passed = outputs["non_cond_frame_outputs"]
            for t in [t for t in passed if t < min(oldest_memory, oldest_pointer)]:
                del passed[t]
            for t, out in (*passed.items(), *outputs["cond_frame_outputs"].items()):
                if t <= frame:
                    out["pred_masks"] = None
                if t < oldest_memory and t in passed:
                    out["maskmem_features"] = out["maskmem_pos_enc"] = None

    def _object_iou(self, state: State, o: int, frame: int, kind: str) -> Tensor:
        outputs = state["output_dict_per_obj"][o]
        for source in (
            state["temp_output_dict_per_obj"][o][kind],
            outputs["cond_frame_outputs"],
            outputs["non_cond_frame_outputs"],
        ):
            if frame in source:
                return source[frame]["object_iou"][0]
        return torch.tensor(NO_OBJ_SCORE, device=self._predictor.device)

    def _video_size(self, masks: Tensor) -> Tensor:
        if masks.shape[-2:] == self._video_hw:
            return masks
        return F.interpolate(masks.float(), self._video_hw, mode="bilinear", align_corners=False)

    @torch.inference_mode()
    def _step(self, frame: int, answer: Answer) -> TrackerStep:
        """The answer with masks of any size, reduced to what the stages read."""
        logits, ious = answer
        if logits.device.type == "cpu":
            labels, masks = argmax_labels_and_masks(
                logits[:, 0].numpy(), self._video_hw, LABEL_THRESHOLD_LOGIT
            )
        else:
            resized = self._video_size(logits)[:, 0]
            best, position = resized.max(dim=0)
            covered = torch.where(best > LABEL_THRESHOLD_LOGIT, position + 1, 0)
            labels, masks = _numpy(covered.to(torch.uint8)), _numpy(resized > 0)
        return TrackerStep(
            frame=frame,
            object_ids=tuple(self._state["obj_ids"]),
            masks=masks,
            labels=labels,
            ious=_numpy(ious.float()),
        )


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.cpu().numpy()
