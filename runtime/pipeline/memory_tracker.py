"""SAM2's tracker on any backend: the memory bank on the host, four networks for what it holds."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import GmosError
from ..arrays import Array, HostArray, NumpyArrays
from ..backend import Backend, BringsTracker
from ..tracker import FrameFeatures, LiveTracker, Prompt, Tracker, TrackerStep, frames_from
from .memory_bank import FrameOutput, MemoryReach, ObjectMemory, Recall
from .prompt_mask import resize_prompt
from .propose import one_ahead

NO_OBJECT = -1024.0
"""Mask logit and object IoU where the tracker has no answer (published SAM2 code)."""

PROMPT_IOU = 1.0
"""Object IoU of a given mask (published SAM2 code)."""

CONSTANTS_KEPT = 64
"""Positions and distances that are kept on the device; objects in step with each other need the same ones."""

OBJECT_LIMIT = 255
"""Labels are uint8, and 0 is the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tracked:
    """What a frame shows, still on the device: `outputs` by object, `drawn` on the video.

    `asked` are those of the outputs that the decoder gave; `told` its object IoUs (O,) and scores (O,), and mask logits
    (O, m, m) where they are on the host.
    """

    frame: int
    outputs: Mapping[int, FrameOutput]
    drawn: Mapping[str, Array]
    asked: Sequence[FrameOutput] = ()
    told: Sequence[Array] = ()


def make_tracker(
    backend: Backend,
    features: FrameFeatures,
    *,
    frames: int,
    video_hw: tuple[int, int],
    max_conditioning: int | None = None,
    look_back: int = 0,
) -> Tracker:
    """The tracker of one video: the one that the backend brings, else `MemoryTracker`."""
    make = backend.tracker if isinstance(backend, BringsTracker) else partial(MemoryTracker, backend)
    return make(
        features, frames=frames, video_hw=video_hw, max_conditioning=max_conditioning, look_back=look_back
    )


def make_live_tracker(backend: Backend, features: FrameFeatures, *, video_hw: tuple[int, int]) -> LiveTracker:
    """The tracker of one stream: the one that the backend brings, else `MemoryTracker`.

    Raises:
        GmosError: the backend's own follows no streams.
    """
    if not isinstance(backend, BringsTracker):
        return MemoryTracker(backend, features, frames=None, video_hw=video_hw)
    made = backend.tracker(features, frames=None, video_hw=video_hw)
    if not isinstance(made, LiveTracker):
        raise GmosError(
            f"{backend.description}: its tracker follows no streams (it has no forget()); run GMOS-S live, or another "
            "backend"
        )
    return made


class MemoryTracker:
    """Tracks the objects of one video, or of a stream (`frames` None), all in one call of each network.

    Only memory attention has a call for each number of memories and pointers that objects have. Memories that no
    step of a forward pass, or of a backward pass from the same start, can read any more are dropped, so memory
    does not grow with the video. Of its conditioning memories a frame reads at most `max_conditioning`. Those are kept
    `look_back` frames longer that tracking may resume from.
    """

    def __init__(
        self,
        backend: Backend,
        features: FrameFeatures,
        *,
        frames: int | None,
        video_hw: tuple[int, int],
        max_conditioning: int | None = None,
        look_back: int = 0,
    ) -> None:
        self._arrays = backend.arrays
        self._features = features
        self._frames = frames
        self._video_hw = video_hw
        self._model = backend.model
        self._reach = MemoryReach.of(backend.model, frames, max_conditioning)
        self._kept_frames = max(backend.model.memory_frames, backend.model.object_pointers) + look_back
        self._mask_prompt = backend.runner("mask_prompt")
        self._memory_attention = backend.runner("memory_attention")
        self._mask_decoder = backend.runner("mask_decoder")
        self._memory_encoder = backend.runner("memory_encoder")
        self._tracked_labels = backend.runner("tracked_labels")
        self._objects: dict[int, ObjectMemory] = {}
        self._no_mask: Array | None = None
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Array] = {}

    def prompt(self, frame: int, prompts: Sequence[Prompt]) -> TrackerStep:
        """See `runtime.tracker.Tracker.prompt`."""
        return self._answer(frame, conditioning=self._add_prompts(frame, prompts))

    def add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:
        """Add prompts as `prompt` does, without the cost of an answer."""
        self._add_prompts(frame, prompts)

    def propagate(
        self, start: int, *, reverse: bool = False, unprompted: bool = False
    ) -> Iterator[TrackerStep]:
        """See `runtime.tracker.Tracker.propagate`."""
        if not self._objects:
            raise ValueError("propagate() needs a prompt first")
        self._settle_prompts()
        for known in self._objects.values():
            known.forget_tracked(beyond=self._kept_frames, of=start)
        frames = range(start, -1, -1) if reverse else frames_from(start, self._frames)
        steps = (self._track(frame, start, reverse=reverse) for frame in frames)
        for step in one_ahead(steps) if unprompted else steps:
            yield self._read_back(step)

    def reset(self) -> None:
        """See `runtime.tracker.Tracker.reset`."""
        self._objects.clear()
        self._constants.clear()

    def forget(self, object_ids: Sequence[int]) -> None:
        """See `runtime.tracker.LiveTracker.forget`."""
        for object_id in object_ids:
            del self._objects[object_id]

    def _add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> bool:
        """Answer all prompts in one call; whether the last of them conditions its object."""
        self._check_prompts(frame, prompts)
        masks = np.stack([resize_prompt(prompt.mask, self._model.sam2_image_px) for prompt in prompts])
        out = self._mask_prompt({"prompt": self._arrays.upload(masks), "f": self._feature(frame, "f")})
        split = {name: self._arrays.unstack(out[name]) for name in ("masks", "pointer", "score")}
        conditioning = False
        for i, prompt in enumerate(prompts):
            output = FrameOutput(
                mask=split["masks"][i],
                iou=PROMPT_IOU,
                pointer=split["pointer"][i],
                score=split["score"][i],
            )
            known = self._objects.setdefault(prompt.object_id, ObjectMemory())
            conditioning = known.add_prompt(frame, output)
        return conditioning

    def _check_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:
        if not prompts:
            raise ValueError("prompt() needs at least one prompt")
        if not 0 <= frame < (sys.maxsize if self._frames is None else self._frames):
            last = "" if self._frames is None else self._frames - 1
            raise ValueError(f"prompt on frame {frame}, expected 0 to {last}")
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
            memories = self._encode(
                self._feature(frame, "f"),
                masks=self._arrays.stack([output.mask for output in outputs]),
                score=self._arrays.stack([output.score for output in outputs]),
                prompted=np.ones(len(outputs), np.float32),
            )
            for output, memory in zip(outputs, memories, strict=True):
                output.memory = memory
        for known in self._objects.values():
            if known.settle() and len(known.conditioning) > 1:
                self._gather(list(known.conditioning.values()))

    def _gather(self, outputs: Sequence[FrameOutput]) -> None:
        """Lay what every frame reads side by side, so that it is copied together each time."""
        memories = self._arrays.unstack(self._arrays.stack([output.memory for output in outputs]))
        pointers = self._arrays.unstack(self._arrays.stack([output.pointer for output in outputs]))
        for output, memory, pointer in zip(outputs, memories, pointers, strict=True):
            output.memory, output.pointer = memory, pointer

    def _track(self, frame: int, start: int, *, reverse: bool) -> _Tracked:
        """Start tracking every object on a frame of a pass; those that it conditions show their prompt."""
        groups: defaultdict[tuple[int, int], dict[int, Recall]] = defaultdict(dict)
        outputs: dict[int, FrameOutput] = {}
        for object_id, known in self._objects.items():
            known.frames_tracked.add(frame)
            if frame in known.conditioning:
                outputs[object_id] = known.conditioning[frame]
            else:
                recall = known.recall(frame, self._reach, reverse=reverse)
                groups[recall.lengths][object_id] = recall
        asked, told = self._run(frame, list(groups.values())) if groups else ({}, ())
        outputs |= asked
        drawn = self._draw([outputs[object_id].mask for object_id in self._objects])
        for object_id, output in asked.items():
            self._objects[object_id].tracked[frame] = output
        self._forget(frame, start, reverse=reverse)
        return _Tracked(
            frame=frame,
            outputs={object_id: outputs[object_id] for object_id in self._objects},
            drawn=drawn,
            asked=list(asked.values()),
            told=told,
        )

    def _run(
        self, frame: int, groups: Sequence[Mapping[int, Recall]]
    ) -> tuple[dict[int, FrameOutput], Sequence[Array]]:
        """One call of each network for all objects; memory attention has one for each group."""
        arrays = self._arrays
        features = {name: self._feature(frame, name) for name in ("s0", "s1", "f")}
        parts = [self._attend(features["f"], list(group.values())) for group in groups]
        # Neighbours in memory are copied together.
        conditioned = (
            arrays.stack([one for part in parts for one in arrays.unstack(part)])
            if len(parts) > 1
            else parts[0]
        )
        out = self._mask_decoder({"conditioned": conditioned, "s0": features["s0"], "s1": features["s1"]})
        object_ids = [object_id for group in groups for object_id in group]
        memories = self._encode(
            features["f"],
            masks=out["masks"],
            score=out["score"],
            prompted=np.zeros(len(object_ids), np.float32),
        )
        outputs = zip(
            object_ids, arrays.unstack(out["masks"]), arrays.unstack(out["pointer"]), memories, strict=True
        )
        return {
            object_id: FrameOutput(mask=mask, iou=None, pointer=pointer, memory=memory)
            for object_id, mask, pointer, memory in outputs
        }, [out[name] for name in ("ious", "score", *(["masks"] if isinstance(arrays, NumpyArrays) else []))]

    def _attend(self, f: Array, recalls: Sequence[Recall]) -> Array:
        """The features conditioned on objects with equally many memories and pointers."""
        return self._memory_attention(
            {
                "f": f,
                "memories": self._arrays.stack_rows(
                    [[output.memory for output in recall.memories] for recall in recalls]
                ),
                "memory_positions": self._constant([recall.positions for recall in recalls], np.int64),
                "pointers": self._pointers(recalls),
                "pointer_distances": self._constant([recall.distances for recall in recalls], np.float32),
            }
        )["conditioned"]

    def _constant(self, values: ArrayLike, dtype: type[np.generic]) -> Array:
        """An array that most frames need alike, uploaded once."""
        host = np.array(values, dtype)
        key = (host.dtype.name, host.shape, host.tobytes())
        if key not in self._constants:
            if len(self._constants) >= CONSTANTS_KEPT:
                self._constants.clear()
            self._constants[key] = self._arrays.upload(host)
        return self._constants[key]

    def _pointers(self, recalls: Sequence[Recall]) -> Array:
        """The objects' pointers (O, P, C); P is 0 on a frame before every prompt."""
        if recalls[0].pointers:
            return self._arrays.stack_rows(
                [[output.pointer for output in recall.pointers] for recall in recalls]
            )
        # An empty array of the dtype that pointers have: only the backend knows it.
        dtype = self._arrays.to_host(recalls[0].memories[0].pointer).dtype
        shape = (len(recalls), 0, self._model.sam2_channels)
        return self._arrays.from_host(HostArray(data=np.empty(0, np.uint8), shape=shape, dtype=dtype))

    def _encode(
        self, f: Array, *, masks: Array, score: Array, prompted: NDArray[np.float32]
    ) -> Sequence[Array]:
        out = self._memory_encoder(
            {"f": f, "masks": masks, "score": score, "prompted": self._constant(prompted, np.float32)}
        )
        return self._arrays.unstack(out["memory"])

    def _answer(self, frame: int, *, conditioning: bool) -> TrackerStep:
        """What every object shows on a frame after a prompt of that kind."""
        found = {
            object_id: known.answer(frame, conditioning=conditioning) or self._nothing()
            for object_id, known in self._objects.items()
        }
        drawn = self._draw([output.mask for output in found.values()])
        return self._read_back(_Tracked(frame=frame, outputs=found, drawn=drawn))

    def _nothing(self) -> FrameOutput:
        """What an object shows where the tracker has no answer."""
        if self._no_mask is None:
            shape = (self._model.mask_px, self._model.mask_px)
            self._no_mask = self._arrays.upload(np.full(shape, NO_OBJECT, np.float32))
        return FrameOutput(mask=self._no_mask, iou=NO_OBJECT, pointer=None)

    def _draw(self, masks: Sequence[Array]) -> dict[str, Array]:
        video_hw = np.array(self._video_hw, np.int64)
        return self._tracked_labels({"masks": self._arrays.stack(masks), "video_hw": video_hw})

    def _read_back(self, step: _Tracked) -> TrackerStep:
        """The answer on a frame, with one wait for all of it."""
        positive, labels, *told = self._arrays.download_all(
            [step.drawn["positive"], step.drawn["labels"], *step.told]
        )
        for output, values in zip(step.asked, zip(*told, strict=True), strict=True):
            # A score of NaN hides its object: nothing else would tell of it.
            output.iou = float(values[0]) if all(np.isfinite(value).all() for value in values) else np.nan
        return TrackerStep(
            frame=step.frame,
            object_ids=tuple(step.outputs),
            masks=positive.view(np.bool_),
            labels=labels,
            ious=np.array([output.iou for output in step.outputs.values()], np.float32),
        )

    def _feature(self, frame: int, name: str) -> Array:
        """One of the frame's feature maps as a batch of one."""
        return self._arrays.stack([self._features.get(frame)[name]])

    def _forget(self, frame: int, start: int, *, reverse: bool) -> None:
        """Drop what has just left the reach of this pass and of one back from its start, which a stream has not."""
        if self._frames is None:
            for known in self._objects.values():
                known.forget_passed(frame, self._reach)
            return
        left = frame + self._kept_frames + 1 if reverse else frame - self._kept_frames - 1
        if abs(left - start) > self._kept_frames:
            for known in self._objects.values():
                known.tracked.pop(left, None)
