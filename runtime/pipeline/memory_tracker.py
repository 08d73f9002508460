"""SAM2's tracker on any backend: the memory bank on the host, four networks for what it holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, HostArray
from ..backend import Backend, BringsTracker
from ..tracker import FrameFeatures, Prompt, Tracker, TrackerStep
from .memory_bank import FrameOutput, MemoryReach, ObjectMemory, Recall
from .prompt_mask import resize_prompt

NO_OBJECT = -1024.0
"""Mask logit and object IoU where the tracker has no answer (published SAM2 code)."""

PROMPT_IOU = 1.0
"""Object IoU of a given mask (published SAM2 code)."""

OBJECT_LIMIT = 255
"""Labels are uint8, and 0 is the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tracked:
    """What the networks say of some objects on one frame, still on the device."""

    object_ids: tuple[int, ...]
    masks: Sequence[Array]
    pointers: Sequence[Array]
    memories: Sequence[Array]
    ious: Array


def make_tracker(
    backend: Backend, features: FrameFeatures, *, frames: int, video_hw: tuple[int, int]
) -> Tracker:
    """The tracker of one video: the one that the backend brings, else `MemoryTracker`."""
    if isinstance(backend, BringsTracker):
        return backend.tracker(features, frames=frames, video_hw=video_hw)
    return MemoryTracker(backend, features, frames=frames, video_hw=video_hw)


class MemoryTracker:
    """Tracks the objects of one video, those with equally many memories and pointers in one call.

    Memories that no step of a forward pass, or of a backward pass from the same start, can read any
    more are dropped, so memory does not grow with the video.
    """

    def __init__(
        self, backend: Backend, features: FrameFeatures, *, frames: int, video_hw: tuple[int, int]
    ) -> None:
        self._arrays = backend.arrays
        self._features = features
        self._frames = frames
        self._video_hw = video_hw
        self._model = backend.model
        self._reach = MemoryReach.of(backend.model, frames)
        self._kept_frames = max(backend.model.memory_frames, backend.model.object_pointers)
        self._mask_prompt = backend.runner("mask_prompt")
        self._memory_attention = backend.runner("memory_attention")
        self._mask_decoder = backend.runner("mask_decoder")
        self._memory_encoder = backend.runner("memory_encoder")
        self._tracked_labels = backend.runner("tracked_labels")
        self._objects: dict[int, ObjectMemory] = {}
        self._no_mask: Array | None = None

    def prompt(self, frame: int, prompts: Sequence[Prompt]) -> TrackerStep:
        """See `runtime.tracker.Tracker.prompt`."""
        return self._answer(frame, conditioning=self._add_prompts(frame, prompts))

    def add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:
        """Add prompts as `prompt` does, without the cost of an answer."""
        self._add_prompts(frame, prompts)

    def propagate(self, start: int, *, reverse: bool = False) -> Iterator[TrackerStep]:
        """See `runtime.tracker.Tracker.propagate`."""
        if not self._objects:
            raise ValueError("propagate() needs a prompt first")
        self._settle_prompts()
        for known in self._objects.values():
            known.forget_tracked(beyond=self._kept_frames, of=start)
        for frame in range(start, -1, -1) if reverse else range(start, self._frames):
            yield self._step(frame, reverse=reverse)
            self._forget(frame, start, reverse=reverse)

    def reset(self) -> None:
        """See `runtime.tracker.Tracker.reset`."""
        self._objects.clear()

    def _add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> bool:
        """Answer all prompts in one call; whether the last of them conditions its object."""
        self._check_prompts(frame, prompts)
        masks = np.stack([resize_prompt(prompt.mask, self._model.sam2_image_px) for prompt in prompts])
        out = self._mask_prompt({"prompt": self._arrays.upload(masks), "f": self._feature(frame, "f")})
        split = {name: self._arrays.unstack(out[name]) for name in ("masks", "pointer")}
        scores = self._arrays.download(out["score"])
        conditioning = False
        for i, prompt in enumerate(prompts):
            output = FrameOutput(
                mask=split["masks"][i],
                iou=PROMPT_IOU,
                pointer=split["pointer"][i],
                score=float(scores[i]),
            )
            known = self._objects.setdefault(prompt.object_id, ObjectMemory())
            conditioning = known.add_prompt(frame, output)
        return conditioning

    def _check_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:
        if not prompts:
            raise ValueError("prompt() needs at least one prompt")
        if not 0 <= frame < self._frames:
            raise ValueError(f"prompt on frame {frame}, expected 0 to {self._frames - 1}")
        for prompt in prompts:
            if prompt.mask.shape != self._video_hw:
                raise ValueError(
                    f"prompt of shape {prompt.mask.shape}, expected the video's {self._video_hw}"
                )
        objects = len(self._objects.keys() | {prompt.object_id for prompt in prompts})
        if objects > OBJECT_LIMIT:
            raise ValueError(f"{objects} objects, expected at most {OBJECT_LIMIT}: labels are 8 bits")

    def _settle_prompts(self) -> None:
        """Encode the memories of new prompts, all objects of a frame in one call."""
        by_frame: defaultdict[int, list[FrameOutput]] = defaultdict(list)
        for known in self._objects.values():
            for frame, output in known.to_encode():
                by_frame[frame].append(output)
        for frame, outputs in by_frame.items():
            scores = np.array([output.score for output in outputs], np.float32)
            memories = self._encode(
                self._feature(frame, "f"),
                masks=self._arrays.stack([output.mask for output in outputs]),
                score=self._arrays.upload(scores),
                prompted=np.ones(len(outputs), np.float32),
            )
            for output, memory in zip(outputs, memories, strict=True):
                output.memory = memory
        for known in self._objects.values():
            known.settle()

    def _step(self, frame: int, *, reverse: bool) -> TrackerStep:
        """Track every object on one frame; those that it conditions show their prompt."""
        batches: defaultdict[tuple[int, int], dict[int, Recall]] = defaultdict(dict)
        masks: dict[int, Array] = {}
        for object_id, known in self._objects.items():
            known.frames_tracked.add(frame)
            if frame in known.conditioning:
                masks[object_id] = known.conditioning[frame].mask
            else:
                recall = known.recall(frame, self._reach, reverse=reverse)
                batches[recall.lengths][object_id] = recall
        features = {name: self._feature(frame, name) for name in ("s0", "s1", "f")} if batches else {}
        calls = [self._track(features, batch) for batch in batches.values()]
        for call in calls:
            masks.update(zip(call.object_ids, call.masks, strict=True))
        drawn = self._draw([masks[object_id] for object_id in self._objects])
        # All work of the frame is on its way to the device now: reading back may wait for it.
        for call in calls:
            self._remember(frame, call)
        outputs = [known.conditioning.get(frame) or known.tracked[frame] for known in self._objects.values()]
        return self._read_back(frame, drawn, [output.iou for output in outputs])

    def _track(self, features: Mapping[str, Array], batch: Mapping[int, Recall]) -> _Tracked:
        """One call of each network for objects with equally many memories and pointers."""
        arrays, recalls = self._arrays, list(batch.values())
        conditioned = self._memory_attention(
            {
                "f": features["f"],
                "memories": arrays.stack(
                    [arrays.stack([output.memory for output in recall.memories]) for recall in recalls]
                ),
                "memory_positions": arrays.upload(
                    np.array([recall.positions for recall in recalls], np.int64)
                ),
                "pointers": self._pointers(recalls),
                "pointer_distances": arrays.upload(
                    np.array([recall.distances for recall in recalls], np.float32)
                ),
            }
        )["conditioned"]
        out = self._mask_decoder({"conditioned": conditioned, "s0": features["s0"], "s1": features["s1"]})
        memories = self._encode(
            features["f"],
            masks=out["masks"],
            score=out["score"],
            prompted=np.zeros(len(batch), np.float32),
        )
        return _Tracked(
            object_ids=tuple(batch),
            masks=arrays.unstack(out["masks"]),
            pointers=arrays.unstack(out["pointer"]),
            memories=memories,
            ious=out["ious"],
        )

    def _pointers(self, recalls: Sequence[Recall]) -> Array:
        """The objects' pointers (O, P, C); P is 0 on a frame before every prompt."""
        if recalls[0].pointers:
            return self._arrays.stack(
                [self._arrays.stack([output.pointer for output in recall.pointers]) for recall in recalls]
            )
        # An empty array of the dtype that pointers have: only the backend knows it.
        dtype = self._arrays.to_host(recalls[0].memories[0].pointer).dtype
        shape = (len(recalls), 0, self._model.sam2_channels)
        return self._arrays.from_host(HostArray(data=np.empty(0, np.uint8), shape=shape, dtype=dtype))

    def _encode(
        self, f: Array, *, masks: Array, score: Array, prompted: NDArray[np.float32]
    ) -> Sequence[Array]:
        out = self._memory_encoder(
            {"f": f, "masks": masks, "score": score, "prompted": self._arrays.upload(prompted)}
        )
        return self._arrays.unstack(out["memory"])

    def _remember(self, frame: int, call: _Tracked) -> None:
        ious = self._arrays.download(call.ious)
        for i, object_id in enumerate(call.object_ids):
            self._objects[object_id].tracked[frame] = FrameOutput(
                mask=call.masks[i], iou=float(ious[i]), pointer=call.pointers[i], memory=call.memories[i]
            )

    def _answer(self, frame: int, *, conditioning: bool) -> TrackerStep:
        """What every object shows on a frame after a prompt of that kind."""
        outputs = [known.answer(frame, conditioning=conditioning) for known in self._objects.values()]
        if self._no_mask is None and any(output is None for output in outputs):
            shape = (self._model.mask_px, self._model.mask_px)
            self._no_mask = self._arrays.upload(np.full(shape, NO_OBJECT, np.float32))
        drawn = self._draw([self._no_mask if output is None else output.mask for output in outputs])
        return self._read_back(
            frame, drawn, [NO_OBJECT if output is None else output.iou for output in outputs]
        )

    def _draw(self, masks: Sequence[Array]) -> dict[str, Array]:
        video_hw = np.array(self._video_hw, np.int64)
        return self._tracked_labels({"masks": self._arrays.stack(masks), "video_hw": video_hw})

    def _read_back(self, frame: int, drawn: Mapping[str, Array], ious: Sequence[float]) -> TrackerStep:
        return TrackerStep(
            frame=frame,
            object_ids=tuple(self._objects),
            masks=self._arrays.download(drawn["positive"]).view(np.bool_),
            labels=self._arrays.download(drawn["labels"]),
            ious=np.array(ious, np.float32),
        )

    def _feature(self, frame: int, name: str) -> Array:
        """One of the frame's feature maps as a batch of one."""
        return self._arrays.stack([self._features.get(frame)[name]])

    def _forget(self, frame: int, start: int, *, reverse: bool) -> None:
        """Drop the output that has just left the reach of this pass and of one back from its start."""
        left = frame + self._kept_frames + 1 if reverse else frame - self._kept_frames - 1
        if abs(left - start) > self._kept_frames:
            for known in self._objects.values():
                known.tracked.pop(left, None)
