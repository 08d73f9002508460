"""The mask tracker as the two propagation stages see it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

LABEL_THRESHOLD_LOGIT = -1.0
"""Stage 1 labels a pixel with its best object where that logit is above -1, not 0 (published code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A mask given for one object on one frame. `mask` is (H, W) bool at the video's size."""

    object_id: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerStep:
    """The tracker's answer on one frame.

    O is the number of objects the tracker holds, in the order of their first prompt.
    `object_ids` length O; `masks` (O, H, W) bool, logit > 0; `labels` (H, W) uint8, 0 or 1 + the
    position in `object_ids` of the arg-max object where its logit is above `LABEL_THRESHOLD_LOGIT`;
    `ious` (O,) float32, the mask decoder's own estimate, -1024 where the tracker has no answer, NaN where the object's
    score, or one of its mask logits as far as they are looked at, is not finite.
    """

    frame: int
    object_ids: tuple[int, ...]
    masks: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    ious: NDArray[np.float32]


class Tracker(Protocol):
    """Masks through a video from mask prompts. Frames count from 0."""

    def prompt(self, frame: int, prompts: Sequence[Prompt]) -> TrackerStep:
        """Add prompts on one frame, in order; the answer is the one to the last of them.

        An object id seen for the first time starts a new object.
        """
        ...

    def add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:
        """As `prompt`, where the answer is not read: it costs a resize of every object's mask."""
        ...

    def propagate(
        self, start: int, *, reverse: bool = False, unprompted: bool = False
    ) -> Iterator[TrackerStep]:
        """Yield frames start, start+1, .. to the last one, or start, start-1, .. 0; of a stream without an end.

        The caller may stop early and prompt again; the next propagation sees every prompt. `unprompted`: it
        will not before this one has ended, so a frame may be started before the answer on the last one is read.
        """
        ...

    def reset(self) -> None:
        """Forget every object and every memory."""
        ...


@runtime_checkable
class LiveTracker(Tracker, Protocol):
    """A tracker that can follow a stream, which has no last frame: it is only ever asked for the next one.

    Nothing that it holds grows with the frames. A prompt is on the frame that was tracked last, or on one of the first
    frames before any was tracked.
    """

    def forget(self, object_ids: Sequence[int]) -> None:
        """Forget these objects and all that is remembered of them; those that are left keep their order.

        It may be called while a propagation is under way, which goes on with the objects that are left.
        """
        ...


class FrameFeatures(Protocol):
    """Where a tracker finds the encoder features of a frame: s0, s1 and f, without the batch axis."""

    def get(self, frame: int) -> Mapping[str, Any]:
        """The backend's arrays of one frame by their contract names."""
        ...


def frames_from(start: int, frames: int | None) -> Iterable[int]:
    """The frames of a forward pass over so many; None: without an end."""
    return itertools.count(start) if frames is None else range(start, frames)


def step_from_logits(
    frame: int,
    object_ids: Sequence[int],
    logits: NDArray[np.float32],
    ious: NDArray[np.float32],
) -> TrackerStep:
    """A step from mask logits (O, H, W) at the video's size and object IoUs (O,)."""
    best = logits.argmax(axis=0)
    covered = np.take_along_axis(logits, best[None], axis=0)[0] > LABEL_THRESHOLD_LOGIT
    return TrackerStep(
        frame=frame,
        object_ids=tuple(object_ids),
        masks=logits > 0,
        labels=np.where(covered, best + 1, 0).astype(np.uint8),
        ious=np.asarray(ious, dtype=np.float32),
    )
