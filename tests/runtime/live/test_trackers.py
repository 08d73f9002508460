"""Both trackers on a stream: the answers of a file, objects that are forgotten, and nothing that grows."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.presets import TINY, model_spec
from gmos_deploy.gmos_ref.sam2.tracker import Sam2Tracker
from gmos_deploy.runtime.pipeline.memory_tracker import MemoryTracker, make_live_tracker
from gmos_deploy.runtime.tracker import LiveTracker, Prompt, TrackerStep

VIDEO_HW = (60, 80)
FRAMES = 18
"""More than pointers that a frame reads."""

Schedule = dict[int, list[tuple[int, int]]]
"""Objects and the columns of their boxes that are prompted on each frame."""


@pytest.fixture(scope="module")
def backend() -> TorchBackend:
    return TorchBackend(
        model_spec(TINY, "gmos"),
        stand_in_networks(TINY, "gmos"),
        device=torch.device("cpu"),
        precision="fp32",
    )


class Features:
    """Features of eight seeded frames, over and over."""

    def __init__(self, backend: TorchBackend) -> None:
        model = backend.model
        images = np.random.default_rng(5).standard_normal(
            (8, 3, model.sam2_image_px, model.sam2_image_px), dtype=np.float32
        )
        encoded = backend.runner("sam2_encoder")({"images": torch.from_numpy(images)})
        self._frames = [{name: maps[i] for name, maps in encoded.items()} for i in range(8)]

    def get(self, frame: int) -> dict[str, Any]:
        return self._frames[frame % 8]


Make = Callable[[TorchBackend, Features, "int | None"], LiveTracker]


def memory_tracker(backend: TorchBackend, features: Features, frames: int | None) -> LiveTracker:
    return MemoryTracker(backend, features, frames=frames, video_hw=VIDEO_HW)


def sam2_tracker(backend: TorchBackend, features: Features, frames: int | None) -> LiveTracker:
    return Sam2Tracker(backend._sam2, features, frames=frames, video_hw=VIDEO_HW, context=nullcontext)


BOTH = pytest.mark.parametrize("make", [memory_tracker, sam2_tracker])


def box(column: int) -> NDArray[np.bool_]:
    mask = np.zeros(VIDEO_HW, np.bool_)
    mask[16:40, column : column + 20] = True
    return mask


def prompts(pairs: list[tuple[int, int]]) -> list[Prompt]:
    return [Prompt(object_id=o, mask=box(column)) for o, column in pairs]


def follow(
    tracker: LiveTracker, schedule: Schedule, frames: int, *, forgotten: Schedule | None = None
) -> list[TrackerStep]:
    """Track frame by frame as stage "on" does; what starts before frame 3 is prompted at once."""
    answers: list[TrackerStep] = []
    steps = None
    early = {frame: pairs for frame, pairs in schedule.items() if frame < 3}
    for frame, pairs in early.items():
        tracker.add_prompts(frame, prompts(pairs))
    for frame in range(frames):
        steps = tracker.propagate(frame) if steps is None else steps
        step = next(steps)
        assert step.frame == frame
        if frame in (forgotten or {}):
            tracker.forget([o for o, _ in (forgotten or {})[frame]])
        if frame in schedule and frame not in early:
            step, steps = tracker.prompt(frame, prompts(schedule[frame])), None
        answers.append(step)
    return answers


def assert_equal(a: list[TrackerStep], b: list[TrackerStep]) -> None:
    for one, other in zip(a, b, strict=True):
        assert one.object_ids == other.object_ids, one.frame
        assert np.array_equal(one.masks, other.masks), one.frame
        assert np.array_equal(one.labels, other.labels), one.frame
        assert np.array_equal(one.ious, other.ious), one.frame


@BOTH
def test_a_stream_is_tracked_as_a_file(backend: TorchBackend, make: Make) -> None:
    """Byte for byte, with objects that join and are reinforced, from a start prompt that is still to come."""
    schedule: Schedule = {2: [(0, 4)], 9: [(0, 8)], 10: [(1, 50)], 16: [(2, 30)]}
    live, file = Features(backend), Features(backend)
    found = follow(make(backend, live, None), schedule, FRAMES)
    assert_equal(found, follow(make(backend, file, FRAMES), schedule, FRAMES))
    assert found[-1].object_ids == (0, 1, 2)


@BOTH
def test_a_forgotten_object_leaves_the_others_as_they_are(backend: TorchBackend, make: Make) -> None:
    """The next ones keep their order, and one of its number may begin anew."""
    schedule: Schedule = {0: [(0, 4), (1, 50)], 4: [(2, 30)], 9: [(0, 20)]}
    found = follow(make(backend, Features(backend), None), schedule, 14, forgotten={8: [(0, 0)]})
    alone = follow(make(backend, Features(backend), None), {0: [(1, 50)], 4: [(2, 30)]}, 14)
    assert [step.object_ids for step in found[7:10]] == [(0, 1, 2), (0, 1, 2), (1, 2, 0)]
    for step, other in zip(found[9:], alone[9:], strict=True):
        # Objects that are tracked together are within rounding of those that are not.
        assert (step.masks[:2] != other.masks).mean() < 1e-3
        assert np.allclose(step.ious[:2], other.ious, atol=1e-4)
    # A prompt of an object that is not known is a new one: its mask is the prompt's.
    assert (found[9].masks[2] == box(20)).mean() > 0.99


@BOTH
def test_everything_may_be_forgotten(backend: TorchBackend, make: Make) -> None:
    """And another object started then."""
    tracker = make(backend, Features(backend), None)
    follow(tracker, {0: [(0, 4), (1, 30)]}, 3)
    tracker.forget([0, 1])
    with pytest.raises((ValueError, RuntimeError)):
        next(tracker.propagate(3))
    tracker.add_prompts(5, prompts([(7, 4)]))
    assert next(tracker.propagate(5)).object_ids == (7,)


def live_tensors() -> int:
    """Tensors that this process holds."""
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def held(tracker: LiveTracker) -> dict[str, int]:
    """What a tracker holds, by name."""
    if isinstance(tracker, MemoryTracker):
        known = list(tracker._objects.values())
        outputs = [
            one for memory in known for one in (*memory.tracked.values(), *memory.conditioning.values())
        ]
        return {
            "objects": len(known),
            "outputs": len(outputs),
            "masks": sum(one.mask is not None for one in outputs),
            "memories": sum(one.memory is not None for one in outputs),
            "frames": sum(len(memory.frames_tracked) for memory in known),
        }
    assert isinstance(tracker, Sam2Tracker)
    state = tracker._state
    objects = state["output_dict_per_obj"].values()
    outputs = [one for outputs in objects for kind in outputs.values() for one in kind.values()]
    return {
        "objects": len(objects),
        "outputs": len(outputs),
        "masks": sum(one["pred_masks"] is not None for one in outputs),
        "memories": sum(one["maskmem_features"] is not None for one in outputs),
        "frames": sum(map(len, state["frames_tracked_per_obj"].values())),
        "prompts": sum(map(len, state["mask_inputs_per_obj"].values())),
    }


@BOTH
def test_nothing_grows(backend: TorchBackend, make: Make) -> None:
    """With a prompt on every fifth frame, and an object that comes and goes, it holds after 37 what it did after 27.

    Of each object: a conditioning memory and `memory_frames` - 1 others, and `object_pointers` - 1 pointers.
    """
    model = backend.model
    tracker = make(backend, Features(backend), None)
    schedule: Schedule = {frame: [(0, 4 + frame % 7)] for frame in range(0, 37, 5)}
    schedule |= {frame: [(frame, 40)] for frame in range(7, 37, 10)}
    forgotten: Schedule = {frame: [(frame - 7, 0)] for frame in range(14, 37, 10)}
    steps, counts, tensors = None, [], []
    for frame in range(37):
        if frame == 0:
            tracker.add_prompts(0, prompts(schedule[0]))
        steps = tracker.propagate(frame) if steps is None else steps
        next(steps)
        if frame in forgotten:
            tracker.forget([frame - 7])
        if frame and frame in schedule:
            tracker.prompt(frame, prompts(schedule[frame]))
            steps = None
        if frame in {26, 36}:
            counts.append(held(tracker))
            # Those of its constants are dropped whenever there are 64.
            tensors.append(live_tensors() - len(getattr(tracker, "_constants", ())))
    assert counts[0] == counts[1]
    assert tensors[0] == tensors[1]
    # The reference tracker forgets when it is asked for the next frame.
    late = isinstance(tracker, Sam2Tracker)
    assert counts[0]["objects"] == 1
    assert counts[0]["memories"] <= model.memory_frames + late
    assert counts[0]["outputs"] <= model.object_pointers + late
    assert counts[0]["masks"] <= 1 + late
    assert counts[0]["frames"] <= 1 + late
    assert counts[0].get("prompts", 0) <= 1


def test_a_backend_whose_tracker_follows_no_streams_says_so(backend: TorchBackend) -> None:
    """One line, before anything runs."""

    class Files:
        description = "files only"

        def tracker(self, *_: Any, **__: Any) -> object:
            return object()

    with pytest.raises(
        GmosError, match=r"files only: its tracker follows no streams \(it has no forget\(\)\)"
    ):
        make_live_tracker(Files(), Features(backend), video_hw=VIDEO_HW)  # type: ignore[arg-type]
    made = make_live_tracker(backend, Features(backend), video_hw=VIDEO_HW)
    assert isinstance(made, Sam2Tracker)
