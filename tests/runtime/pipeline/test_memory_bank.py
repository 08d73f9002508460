"""What an object remembers and what a frame may read of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sam2.modeling.sam2_utils import select_closest_cond_frames

from gmos_deploy.gmos_ref.presets import TINY, model_spec
from gmos_deploy.runtime.pipeline.memory_bank import (
    FrameOutput,
    MemoryReach,
    ObjectMemory,
    nearest_conditioning,
)

REACH = MemoryReach(memory_frames=7, object_pointers=16)


def output(name: str) -> FrameOutput:
    """An output that is recognised by its mask."""
    return FrameOutput(mask=name, iou=1.0, pointer=None)


def make_memory(*, conditioning: tuple[int, ...], tracked: range = range(0)) -> ObjectMemory:
    return ObjectMemory(
        conditioning={t: output(f"c{t}") for t in conditioning},
        tracked={t: output(f"t{t}") for t in tracked},
        frames_tracked=set(tracked),
    )


def names(outputs: tuple[FrameOutput, ...]) -> list[str]:
    return [output.mask for output in outputs]


def test_a_frame_reads_every_prompt_and_the_frames_just_passed() -> None:
    """Prompts have the last row of the temporal table, others the row of their distance."""
    recall = make_memory(conditioning=(40, 0), tracked=range(1, 20)).recall(20, REACH, reverse=False)
    assert names(recall.memories) == ["c40", "c0", "t14", "t15", "t16", "t17", "t18", "t19"]
    assert recall.positions == (6, 6, 5, 4, 3, 2, 1, 0)
    # The prompt on 40 lies ahead: its memory is read, its pointer is not.
    assert names(recall.pointers) == ["c0", *(f"t{t}" for t in range(19, 4, -1))]
    assert recall.distances == (20 / 15, *(d / 15 for d in range(1, 16)))
    assert recall.lengths == (8, 16)


def test_a_backward_pass_reads_the_frames_behind_it() -> None:
    """Directions are mirrored: later frames are the past."""
    recall = make_memory(conditioning=(30, 2), tracked=range(21, 30)).recall(20, REACH, reverse=True)
    assert names(recall.memories) == ["c30", "c2", "t26", "t25", "t24", "t23", "t22", "t21"]
    assert names(recall.pointers) == ["c30", *(f"t{t}" for t in range(21, 30))]
    assert recall.distances[0] == 10 / 15


def test_a_frame_before_every_prompt_has_no_pointer() -> None:
    """Only the prompts' memories are read there."""
    recall = make_memory(conditioning=(5,)).recall(0, REACH, reverse=False)
    assert recall.lengths == (1, 0)
    assert recall.distances == ()


def test_gaps_are_skipped() -> None:
    """Frames without an output leave no hole in what is read."""
    memory = make_memory(conditioning=(0,), tracked=range(1, 9))
    for frame in (3, 6):
        del memory.tracked[frame]
    recall = memory.recall(9, REACH, reverse=False)
    assert names(recall.memories) == ["c0", "t4", "t5", "t7", "t8"]
    assert recall.positions == (6, 4, 3, 1, 0)


def test_a_short_video_counts_fewer_pointers() -> None:
    """The largest distance is the video's, as the package has it."""
    reach = MemoryReach.of(model_spec(TINY, "gmos"), 5)
    assert reach.object_pointers == 5
    recall = make_memory(conditioning=(0,), tracked=range(1, 4)).recall(4, reach, reverse=False)
    assert recall.distances == (1.0, 0.25, 0.5, 0.75)
    long = MemoryReach.of(replace(model_spec(TINY, "gmos"), object_pointers=9), 500)
    assert (long.memory_frames, long.object_pointers) == (7, 9)


def test_the_answer_shows_new_prompts_of_its_own_kind() -> None:
    """A prompt of the other kind waits, and its object shows what it showed before."""
    memory = make_memory(conditioning=(0,), tracked=range(1, 4))
    assert not memory.add_prompt(3, output("reinforced"))
    assert memory.add_prompt(9, output("new"))
    shown = {kind: memory.answer(3, conditioning=kind) for kind in (False, True)}
    assert [shown[kind].mask for kind in (False, True)] == ["reinforced", "t3"]
    assert memory.answer(9, conditioning=False) is None
    assert memory.answer(9, conditioning=True).mask == "new"


def test_settled_prompts_replace_what_was_there() -> None:
    """A reinforced frame stays a tracked one; a frame that conditions is tracked no more."""
    memory = make_memory(conditioning=(0,), tracked=range(1, 4))
    memory.add_prompt(3, output("reinforced"))
    memory.frames_tracked.discard(2)
    memory.add_prompt(2, output("new"))
    assert [(frame, prompt.mask) for frame, prompt in memory.to_encode()] == [(3, "reinforced"), (2, "new")]
    memory.settle()
    assert {t: o.mask for t, o in memory.tracked.items()} == {1: "t1", 3: "reinforced"}
    assert {t: o.mask for t, o in memory.conditioning.items()} == {0: "c0", 2: "new"}
    assert list(memory.to_encode()) == []


@pytest.mark.parametrize("settled", [True, False])
def test_a_prompt_on_a_tracked_frame_that_conditions_is_dropped(*, settled: bool) -> None:
    """Its memory is not even encoded; until then the answer shows it."""
    memory = ObjectMemory()
    memory.add_prompt(4, output("first"))
    if settled:
        memory.settle()
    memory.frames_tracked.add(4)
    memory.add_prompt(4, output("second"))
    assert memory.answer(4, conditioning=False).mask == "second"
    assert [prompt.mask for _, prompt in memory.to_encode()] == ([] if settled else ["first"])
    memory.settle()
    assert memory.tracked == {}
    assert memory.conditioning[4].mask == "first"


def test_prompts_are_never_forgotten() -> None:
    """Distance drops tracked frames only."""
    memory = make_memory(conditioning=(0, 90), tracked=range(1, 60))
    memory.forget_tracked(beyond=16, of=40)
    assert sorted(memory.tracked) == list(range(24, 57))
    assert list(memory.conditioning) == [0, 90]


def test_few_conditioning_memories_are_the_ones_that_sam2_chooses() -> None:
    """Any frames in any order of insertion, before, on and behind the frame: frames and order are the package's."""
    draw = np.random.default_rng(7)
    others = 0
    for _ in range(2000):
        frames = draw.choice(60, size=draw.integers(1, 16), replace=False).tolist()
        frame, most = int(draw.integers(0, 60)), int(draw.integers(2, 10))
        selected, _ = select_closest_cond_frames(frame, dict.fromkeys(frames), most)
        assert nearest_conditioning(frames, frame, most) == tuple(selected)
        assert nearest_conditioning(frames, frame, None) == tuple(frames)
        nearest = sorted(frames, key=lambda t: abs(t - frame))[:most]
        others += set(nearest) != set(selected)
    assert others > 50, "the nearest ones are others"


def test_a_prompt_that_is_not_read_as_one_is_an_ordinary_memory() -> None:
    """With its own row of the temporal table and its pointer, while it is near enough."""
    memory = make_memory(conditioning=(0, 12, 16, 18, 40), tracked=range(1, 20))
    for frame in (12, 16, 18):
        del memory.tracked[frame]
    recall = memory.recall(20, replace(REACH, conditioning=2), reverse=False)
    assert names(recall.memories) == ["c18", "c40", "t14", "t15", "c16", "t17", "t19"]
    assert recall.positions == (6, 6, 5, 4, 3, 2, 0)
    assert names(recall.pointers)[:5] == ["c18", "t19", "t17", "c16", "t15"]
    assert recall.distances[:5] == (2 / 15, 1 / 15, 3 / 15, 4 / 15, 5 / 15)
    assert "c12" in names(recall.pointers), "within reach of the pointers"
    assert "c0" not in names(recall.pointers)
