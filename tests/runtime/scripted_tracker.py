"""The scripted tracker of the golden data (golden/README.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gmos_deploy.runtime.tracker import Prompt, TrackerStep, frames_from, step_from_logits


class ScriptedTracker:
    """The tracker of the golden data: every object moves by its own constant velocity.

    `frames` is None for a stream; `first_id` is the id of the object that is the golden data's 0.
    """

    def __init__(
        self,
        frames: int | None,
        video_hw: tuple[int, int],
        velocities: NDArray[np.int64],
        *,
        first_id: int = 0,
    ) -> None:
        self._frames = frames
        self._first_id = first_id
        self._video_hw = video_hw
        self._velocities = velocities
        self._prompts: dict[int, dict[int, NDArray[np.bool_]]] = {}
        self.prompted: list[tuple[int, int]] = []
        self.propagations: list[tuple[int, int]] = []

    def prompt(self, frame: int, prompts: Sequence[Prompt]) -> TrackerStep:
        for prompt in prompts:
            self._prompts.setdefault(prompt.object_id, {})[frame] = prompt.mask
            self.prompted.append((frame, prompt.object_id - self._first_id))
        return self._step(frame)

    def add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:
        self.prompt(frame, prompts)

    def propagate(
        self, start: int, *, reverse: bool = False, unprompted: bool = False
    ) -> Iterator[TrackerStep]:
        self.propagations.append((start, int(reverse)))
        for frame in range(start, -1, -1) if reverse else frames_from(start, self._frames):
            yield self._step(frame)

    def reset(self) -> None:
        self._prompts.clear()

    @property
    def objects(self) -> list[int]:
        """Those that it holds, in the order of their first prompt."""
        return list(self._prompts)

    def forget(self, object_ids: Sequence[int]) -> None:
        for object_id in object_ids:
            del self._prompts[object_id]

    def _step(self, frame: int) -> TrackerStep:
        ids = list(self._prompts)
        logits = np.stack([self._logits(o, frame) for o in ids])
        numbers = [o - self._first_id for o in ids]
        ious = np.array(
            [0.98 - 0.01 * ((3 * frame + 5 * o) % 7) - 0.0001 * frame for o in numbers], np.float32
        )
        return step_from_logits(frame, ids, logits, ious)

    def _logits(self, o: int, frame: int) -> NDArray[np.float32]:
        nearest = min(self._prompts[o], key=lambda t: (abs(t - frame), t))
        number = o - self._first_id
        dy, dx = (frame - nearest) * self._velocities[number % len(self._velocities)]
        mask = shifted(self._prompts[o][nearest], int(dy), int(dx))
        ring = np.zeros_like(mask)
        for move in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            ring |= shifted(mask, *move)
        return np.where(mask, 6 + 0.5 * number, np.where(ring, -0.5, -6.0)).astype(np.float32)


def shifted(mask: NDArray[np.bool_], dy: int, dx: int) -> NDArray[np.bool_]:
    """The mask moved by (dy, dx); what leaves the frame is gone."""
    height, width = mask.shape
    moved = np.zeros_like(mask)
    if abs(dy) < height and abs(dx) < width:
        moved[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = mask[
            max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
        ]
    return moved
