"""A thousand frames leave nothing behind: whatever a session holds is as much after them as it was before."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.runtime.contract import network_specs
from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.session import LiveSession
from gmos_deploy.runtime.pipeline.memory_tracker import MemoryTracker

HW = (64, 96)
FRAMES, PERIOD, RATE_FPS = 1000, 100, 8
RED = (200, 40, 40)

SLACK_BLOCKS = 250
"""Blocks of Python's memory, of 500 frames: half of what one object a frame would leave behind."""

Arrays = dict[str, NDArray[Any]]


class FakeNetworks:
    """A backend of plain arithmetic that brings no tracker: the pipeline's own runs over five fake networks of SAM2.

    An object stays where it was prompted, as long as anything red is seen. Real networks take seconds for what this
    does in one: benchmarks/live_memory.py runs them.
    """

    description = "fake networks"

    def __init__(self, colours: Any) -> None:
        self._colours = colours
        self.model, self.arrays = colours.model, colours.arrays

    def runner(self, network: str) -> Callable[[Mapping[str, Any]], Arrays]:
        own = getattr(self, f"_{network}", None)
        if own is None:
            run: Callable[[Mapping[str, Any]], Arrays] = self._colours.runner(network)
            return run
        outputs = {tensor.name for tensor in network_specs(self.model)[network].outputs}

        def call(inputs: Mapping[str, Any]) -> Arrays:
            answer: Arrays = own(**inputs)
            assert set(answer) == outputs
            return answer

        return call

    def close(self) -> None:
        """Nothing is held."""

    def _mask_prompt(self, prompt: NDArray[Any], **_: Any) -> Arrays:
        side = self.model.mask_px
        masks = np.where(prompt[:, ::4, ::4][:, :side, :side] > 0, 9, -9).astype(np.float32)
        return {"masks": masks, **self._scores(len(prompt))}

    def _memory_encoder(self, f: NDArray[Any], masks: NDArray[Any], **_: Any) -> Arrays:
        grid = self.model.sam2_image_px // 16
        coarse = masks[:, :: self.model.mask_px // grid, :: self.model.mask_px // grid] > 0
        return {"memory": np.repeat(coarse[:, None], self.model.memory_channels, axis=1).astype(np.float32)}

    def _memory_attention(self, memories: NDArray[Any], pointers: NDArray[Any], **_: Any) -> Arrays:
        assert memories.shape[1] <= self.model.memory_frames
        assert pointers.shape[1] <= self.model.object_pointers
        return {"conditioned": memories[:, 0]}

    def _mask_decoder(self, conditioned: NDArray[Any], s0: NDArray[Any], **_: Any) -> Arrays:
        factor = self.model.mask_px // conditioned.shape[-1]
        shown = conditioned[:, 0].repeat(factor, axis=1).repeat(factor, axis=2) > 0
        seen = (np.abs(s0.astype(int) - RED) < 40).all(axis=-1).any()
        masks = np.where(shown & seen, 9, -9).astype(np.float32)
        scores = self._scores(len(masks))
        return {"masks": masks, "ious": np.full(len(masks), 0.9, np.float32), **scores}

    def _tracked_labels(self, masks: NDArray[Any], video_hw: NDArray[np.int64]) -> Arrays:
        rows = np.arange(video_hw[0]) * masks.shape[1] // video_hw[0]
        columns = np.arange(video_hw[1]) * masks.shape[2] // video_hw[1]
        large = masks[:, rows[:, None], columns]
        labels = np.where(large.max(axis=0) > -1, large.argmax(axis=0) + 1, 0).astype(np.uint8)
        return {"positive": (large > 0).astype(np.uint8), "labels": labels}

    def _scores(self, objects: int) -> Arrays:
        return {
            "pointer": np.zeros((objects, self.model.sam2_channels), np.float32),
            "score": np.ones(objects, np.float32),
        }


def frame_at(index: int) -> LiveFrame | None:
    """A red box falls for some seconds, then nothing is seen for as long.

    Some frames are dropped, and one a period begins a new sequence.
    """
    phase = index % PERIOD
    if phase in {13, 14, 15, 37, 60}:
        return None
    rgb = np.full((*HW, 3), 128, np.uint8)
    if phase % 50 < 30:
        top = 4 + phase % 50
        rgb[top : top + 16, 30:54] = RED
    return LiveFrame(
        index=index, time_s=index / RATE_FPS, arrival_s=0, rgb=rgb, new_sequence=index > 0 and phase == 80
    )


def held(session: LiveSession) -> dict[str, int]:
    """What the session holds, by name."""
    found = {"waiting": session._windows.waiting, "tokens": session._windows.held}
    stage = session._stage
    if stage is None:
        return found
    tracker = stage._tracker
    assert isinstance(tracker, MemoryTracker)
    memories = list(tracker._objects.values())
    return found | {
        "features": len(stage.features),
        "objects": len(stage.objects),
        "prompts": sum(len(stage.objects[one].prompts) for one in stage.objects.ids_by_slot().values()),
        "memories": len(memories),
        "outputs": sum(len(memory.tracked) + len(memory.conditioning) for memory in memories),
        "frames": sum(len(memory.frames_tracked) for memory in memories),
    }


@pytest.mark.parametrize("variant", ["gmos", "gmos-s"])
def test_a_thousand_frames_leave_nothing_behind(colour_backend: Callable[..., Any], variant: str) -> None:
    """With objects that come and go, dropped frames and new sequences; every period holds what the one before did."""
    backend = FakeNetworks(colour_backend(variant))
    session = LiveSession(backend, video_hw=HW, stride=2, fps=RATE_FPS, retire_after_s=1, with_rgb=True)
    most: list[dict[str, int]] = []
    blocks: list[int] = []
    answered = last_id = 0
    for index in range(FRAMES):
        if index % PERIOD == 0:
            backend._colours.batches.clear()
            # The constants of the tracker are dropped whenever there are 64.
            if session._stage is not None:
                session._stage._tracker._constants.clear()  # type: ignore[attr-defined]
            gc.collect()
            most.append({})
            blocks.append(sys.getallocatedblocks())
        frame = frame_at(index)
        if frame is None:
            continue
        for answer in session.push(frame):
            answered += 1
            last_id = max(last_id, *answer.ids.values(), 0)
        for name, count in held(session).items():
            most[-1][name] = max(most[-1].get(name, 0), count)
    assert answered + len(session.finish()) == FRAMES - 5 * FRAMES // PERIOD
    assert most[2:] == [most[2]] * (len(most) - 2)
    assert blocks[9] - blocks[4] < SLACK_BLOCKS
    assert most[-1]["tokens"] <= 4 * session.stride + 3
    if variant == "gmos":
        # Two a period, and one more where a new sequence begins.
        assert last_id >= 2 * FRAMES // PERIOD
        model = backend.model
        assert most[-1]["features"] <= 3
        assert most[-1]["outputs"] <= most[-1]["objects"] * model.object_pointers
