"""The acceptance run's steps on engines, on the fake library and device."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gmos_deploy.evaluation.profile.roofline import host_rates
from gmos_deploy.runtime.bundle.uploading import dtypes_of
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.video.inputs import resolve_frames

BENCHMARKS = Path(__file__).parents[4] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"acceptance_steps.{name}")


@pytest.fixture
def sweep(module: Callable[[str], ModuleType], world: Any, make_world: Any) -> Callable[..., dict[str, Any]]:
    """Items by name of memory attention over some memories, against another world with the same networks."""

    def run(*memories: int) -> dict[str, Any]:
        notes = module("record").Notes(lambda _: None)
        trusted, backend = make_world().backend(), world.backend()
        module("networks").sweep_memories(
            "tensorrt",
            backend,
            trusted,
            bundle=world.bundle,
            dtypes=dtypes_of(world.bundle.networks["memory_attention"].inputs),
            notes=notes,
            memories=memories,
        )
        backend.close()
        trusted.close()
        return {item.name: item for item in notes.items}

    return run


def test_memories_that_grow_and_shrink_again(sweep: Callable[..., dict[str, Any]]) -> None:
    """Right at every length; one that no profile takes is missing, with the command that builds it."""
    found = sweep(1, 2, 5, 500)
    assert [item.verdict for item in found.values()] == ["passed", "passed", "passed", "missing"]
    assert "R=500" in list(found)[-1]
    assert "gmos-export build-engines" in list(found.values())[-1].words


@pytest.mark.parametrize(("change", "words"), [(np.inf, "not finite"), (0.5, "relative error")])
def test_wrong_answers_at_one_length_are_found(
    change: float, words: str, sweep: Callable[..., dict[str, Any]], world: Any
) -> None:
    """As fused attention overflows beyond so many keys."""
    right = world.compute

    def compute(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        answer = right(name, inputs)
        if name == "memory_attention" and inputs["memories"].shape[1] == 5:
            return {key: (values * np.float32(change)).astype(values.dtype) for key, values in answer.items()}
        return answer

    world.compute = compute
    found = sweep(2, 5)
    assert [item.verdict for item in found.values()] == ["passed", "failed"]
    assert words in list(found.values())[1].words


@pytest.mark.parametrize("limited", [True, False])
def test_times_of_a_network(limited: bool, module: Callable[[str], ModuleType], world: Any) -> None:
    """By events, by the host, and until the call returned; with the share of the roofline, but on a processor."""
    times, notes = module("times"), module("record").Notes(lambda _: None)
    cases = dict(times.time_cases(world.bundle))
    assert [name for name, _ in times.time_cases(world.bundle)].count("memory_attention") > 5
    backend = world.backend()
    times.time_network(
        "tensorrt: mask_decoder",
        backend,
        world.bundle,
        "mask_decoder",
        lengths=cases["mask_decoder"],
        dtypes=dtypes_of(world.bundle.networks["mask_decoder"].inputs),
        rates=host_rates() if limited else None,
        notes=notes,
        seconds=0.02,
    )
    backend.close()
    (item,) = notes.items
    assert item.verdict == "noted"
    assert item.values["device_ms"] == 1.5
    assert item.values["enqueue_ms"] <= item.values["wall_ms"]
    assert ("of the roofline" in item.words) == limited
    assert (item.values["roofline_share"] is not None) == limited


def test_the_least_free_memory_of_a_run(module: Callable[[str], ModuleType], world: Any) -> None:
    """Watched while it runs, also where it is given back at once."""
    import time

    from gmos_deploy.runtime.cuda.driver import Cuda

    cuda = Cuda(0, world.fake_cuda)
    before = cuda.memory_info()[0]
    with module("videos").device_minimum(cuda) as least:
        pointer = cuda.allocate(5 << 20)
        end = time.monotonic() + 5
        while least["free"] == before and time.monotonic() < end:
            time.sleep(0.01)
        cuda.free(pointer)
    assert before - least["free"] == 5 << 20


def test_the_budget_of_a_run(module: Callable[[str], ModuleType], make_world: Any) -> None:
    """What the plan asks for, and some features."""
    world = make_world(pi3_sizes=((154, 126),))
    videos, backend = module("videos"), world.backend()
    budget = videos.budget_for(backend, (70, 90), 2)
    weights = sum(record.weight_bytes for record in world.records.values())
    assert budget > weights + videos.FEATURES_BYTES
    backend.close()


def test_a_clip_runs_on_engines(
    module: Callable[[str], ModuleType], make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned and settled as gmos-run does it; the networks of this world propose nothing."""
    world, videos = make_world(pi3_sizes=((154, 126),)), module("videos")
    right = world.compute

    def compute(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        answer = right(name, inputs)
        return {key: 0 * values for key, values in answer.items()} if name == "proposal_labels" else answer

    world.compute = compute
    backend = world.backend()
    noise = np.random.default_rng(0).integers(0, 255, (6, 70, 90, 3), np.uint8)
    clip = resolve_frames(
        list(noise),
        name="noise",
        fps=16,
        stride=2,
        pi3_area_px=backend.model.pi3_area_px,
        patch_px=backend.model.patch_px,
    )
    monkeypatch.setattr(videos, "acceptance_video", lambda *_: clip)
    masks, seconds = videos.run_masks(backend, 6, RunOptions(batch_size=1))
    assert {name: maps.shape for name, maps in masks.items()} == {
        "mos-i": (6, 70, 90),
        "mos": (6, 70, 90),
    }
    assert seconds > 0
    backend.close()
