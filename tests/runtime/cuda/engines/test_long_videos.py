"""Tracks through long videos on engines: any number of memories, and what a frame costs in calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.arrays import NumpyArrays
from gmos_deploy.runtime.pipeline.memory_tracker import MemoryTracker
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.tensorrt.memory import RunSize, memory_lengths, settle_run
from gmos_deploy.runtime.tracker import Prompt

MIB = 1 << 20

CALLS_A_FRAME = {1: 37, 3: 62, 10: 150}
"""CUDA calls of a tracked frame by number of objects, at most: 101, 257 and 789 when every object's memories were
copied one by one and its networks called apart (docs/performance.md)."""


class Toy:
    """The networks of a world on the host."""

    def __init__(self, world: Any) -> None:
        self.model, self.arrays, self._compute = world.model, NumpyArrays(), world.compute

    def runner(self, network: str) -> Any:
        def call(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return self._compute(network, dict(inputs))  # type: ignore[no-any-return]

        return call


@pytest.mark.parametrize(("objects", "most"), [(1, None), (3, None), (10, None), (3, 4), (10, 4)])
def test_a_long_video_is_tracked_to_its_end(
    make_world: Any, long_video: Any, objects: int, most: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every memory is read, the answers are those of the same networks called directly, and calls are few."""
    video, world = long_video(objects), make_world()
    sizes = {"frames": video.frames, "video_hw": video.video_hw, "max_conditioning": most}
    toy = Toy(world)
    expected = video.follow(MemoryTracker(toy, video.features(toy), **sizes))  # type: ignore[arg-type]
    backend = world.backend(cuda_graphs=False)
    tracker = MemoryTracker(backend, video.features(backend), **sizes)
    for frame in range(video.frames):
        tracker._features.get(frame)
    world.fake_cuda.calls.clear()
    found = video.follow(tracker)
    calls = {name: count / len(found) for name, count in world.fake_cuda.calls.items()}
    backend.close()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.frame == theirs.frame
        np.testing.assert_array_equal(ours.masks, theirs.masks)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.ious, theirs.ious)
    networks = sum(world.computed.values()) / len(found)
    copies = sum(calls.get(name, 0) for name in ("cudaMemcpyAsync", "cudaMemcpy2DAsync"))
    waits = sum(calls.get(name, 0) for name in ("cudaEventSynchronize", "cudaStreamSynchronize"))
    with capsys.disabled():
        print(  # noqa: T201 - what docs/performance.md has
            f"\n{objects} objects, {most or 'all'} memories, a tracked frame: {sum(calls.values()):.0f} CUDA calls, "
            f"{copies:.1f} copies, "
            f"{waits:.2f} waits, {networks:.1f} network calls"
        )
    # Where only some memories are read, those that lie side by side are fewer.
    assert sum(calls.values()) <= CALLS_A_FRAME[objects] * (1.1 if most else 1)
    assert waits <= 1.05, "one a frame, and a few at the ends"


@pytest.mark.parametrize("unprompted", [True, False])
def test_a_frame_is_started_before_the_last_answer_is_read(
    make_world: Any, long_video: Any, unprompted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is prompted on the way: the device has work while the host decides."""
    video, order = long_video(1), list[str]()
    toy: Any = Toy(make_world())
    tracker = MemoryTracker(toy, video.features(toy), frames=4, video_hw=video.video_hw)
    tracker.add_prompts(0, [Prompt(object_id=0, mask=np.ones(video.video_hw, bool))])
    for name, step in (("_track", "start"), ("_read_back", "read")):
        run = getattr(tracker, name)
        monkeypatch.setattr(
            tracker, name, lambda *a, run=run, step=step, **k: order.append(step) or run(*a, **k)
        )
    assert len(list(tracker.propagate(0, unprompted=unprompted))) == 4
    ahead = ["start", *["start", "read"] * 3, "read"]
    assert order == (ahead if unprompted else ["start", "read"] * 4)


def test_profiles_take_the_memories_of_long_videos(make_world: Any) -> None:
    """A tenth of 1300 frames, and for that no less than 128 memories and 144 pointers."""
    backend = make_world().backend()
    assert backend.most_conditioning() == 130
    lengths = memory_lengths(backend.model, 130)
    assert lengths["R"] >= 128
    assert lengths["P"] >= 144
    backend.close()


def video_of(frames: int | None, name: str = "street") -> Any:
    return SimpleNamespace(name=name, video_hw=(70, 90), stride=2, frame_count_estimate=frames)


@pytest.fixture
def wide(make_world: Any) -> Any:
    """A world with engines for these videos."""
    return make_world(pi3_sizes=((154, 126),), memory=400 * MIB)


def test_a_video_that_may_need_more_memories_is_told_at_the_start(
    wide: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With both ways out; a video that cannot is not."""
    backend = wide.backend()
    plans, plan = list[RunSize](), backend.plan
    backend.plan = lambda size: plans.append(size) or plan(size)
    with caplog.at_level(logging.WARNING):
        options = settle_run(backend, RunOptions(), [video_of(1300)])  # type: ignore[arg-type]
    assert [size.conditioning for size in plans] == [130, 130], "where all fit nothing is searched"
    assert options.conditioning_limit is None
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        options = settle_run(backend, RunOptions(), [video_of(1500), video_of(20, "short")])  # type: ignore[arg-type]
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "street: objects may get up to 150 conditioning memories, and the engine of memory_attention takes 130; should "
        "the first pass find so many, the run ends there: build one for more (gmos-export build-engines"
    )
    assert "--max-shapes memory_attention.memories=4x266x" in record.getMessage()
    assert ",memory_attention.pointers=4x275x" in record.getMessage()
    assert record.getMessage().endswith("or read only some of them with --max_conditioning 130")
    assert options.conditioning_limit is not None
    assert options.conditioning_limit.most == 130
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        settle_run(backend, RunOptions(max_conditioning=8), [video_of(1500)])  # type: ignore[arg-type]
    assert not caplog.records
    backend.close()


def test_memories_without_room_are_told_at_the_start(wide: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The plan is that of as many as the device has room for."""
    backend = wide.backend()
    backend.load()
    plan = backend.plan(size(conditioning=1))
    backend.close()
    tight = wide.backend(memory_budget=plan.weights + plan.arrays + plan.activations)
    with caplog.at_level(logging.WARNING):
        options = settle_run(tight, RunOptions(batch_size=1), [video_of(1000)])  # type: ignore[arg-type]
    assert options.conditioning_limit is not None
    assert 1 <= options.conditioning_limit.most < 100
    assert "and the device has room for" in caplog.text
    assert tight.plan(size(conditioning=options.conditioning_limit.most)).left >= 0
    assert tight.plan(size(conditioning=options.conditioning_limit.most + 1)).left < 0
    tight.close()


def size(*, conditioning: int) -> RunSize:
    return RunSize(batch_size=1, video_hw=(70, 90), stride=2, conditioning=conditioning)


def test_few_memories_stay_whole_when_many_are_cut(wide: Any) -> None:
    """Room for many memories decides nothing about calls with few."""
    backend = wide.backend()
    runner = backend._runner("memory_attention")

    def sizes(conditioning: int) -> dict[str, tuple[int, ...]]:
        lengths = {"O": 4, **memory_lengths(backend.model, conditioning)}
        return {
            tensor.name: tuple(lengths[axis] if isinstance(axis, str) else axis for axis in tensor.axes)
            for tensor in runner.entry.inputs
        }

    assert runner.fit(sizes(60), 0)[1] == 1
    assert runner.fit(sizes(1), 400 * MIB)[1] == 4
    with pytest.raises(GmosError, match="memory_attention was called with"):
        runner.fit(sizes(200), 0)
    backend.close()
