"""The acceptance run's first step on the fake device: it passes there, and finds what it is there to find."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gmos_deploy.runtime.cuda.driver import Cuda

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

Examine = Callable[[Any], dict[str, Any]]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The step's module, with sizes that the fake can copy in no time."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("acceptance_steps.cuda_layer")
    monkeypatch.setattr(module, "SIZES", (1, 511, 4097, 1 << 16))
    monkeypatch.setattr(module, "CALLS", 20)
    return module


@pytest.fixture
def examine(steps: ModuleType) -> Examine:
    """The verdicts by name on a device."""
    record = importlib.import_module("acceptance_steps.record")

    def run(fake: Any) -> dict[str, Any]:
        notes = record.Notes(lambda _: None)
        steps.examine(Cuda(0, fake), notes, rounds=3, load_bytes=1 << 16)
        return {item.name: item for item in notes.items}

    return run


def test_a_device_that_is_right(examine: Examine, timed_cuda: Callable[..., Any]) -> None:
    """Every part passes."""
    found = examine(timed_cuda())
    assert {name: item.verdict for name, item in found.items()} == {
        "device": "noted",
        "round trips under load": "passed",
        "blocks used again": "passed",
        "order against a second stream": "passed",
        "capture and replay": "passed",
        "event times": "passed",
        "cost per call": "noted",
        "leaks": "passed",
    }
    assert set(found["cost per call"].values["microseconds"]) == {
        "copy on the device",
        "event",
        "launch of a graph",
        "new array",
    }


def test_streams_that_do_not_wait_are_found(examine: Examine, timed_cuda: Callable[..., Any]) -> None:
    """What another stream reads is not there yet."""

    class Deaf(timed_cuda):  # type: ignore[misc, valid-type]
        def stream_wait_event(self, stream: Any, event: Any, flags: int) -> None: ...

    found = examine(Deaf())
    assert found["order against a second stream"].verdict == "failed"
    assert found["round trips under load"].verdict == "failed"


def test_graphs_that_replay_other_values_are_found(examine: Examine, timed_cuda: Callable[..., Any]) -> None:
    """A graph that copies nothing leaves the values of before."""

    class Idle(timed_cuda):  # type: ignore[misc, valid-type]
        def graph_launch(self, graph: Any, stream: Any) -> None: ...

    assert examine(Idle())["capture and replay"].verdict == "failed"


def test_memory_that_is_not_given_back_is_found(examine: Examine, timed_cuda: Callable[..., Any]) -> None:
    """Over rounds it adds up."""

    class Leaking(timed_cuda):  # type: ignore[misc, valid-type]
        def free(self, pointer: int) -> None:
            self.outside += 4 * len(self.device[pointer])
            super().free(pointer)

    found = examine(Leaking())
    assert found["leaks"].verdict == "failed"
    assert "MiB of device memory gone" in found["leaks"].words


def test_events_that_do_not_tell_the_work_are_found(
    examine: Examine, make_fake_cuda: Callable[..., Any]
) -> None:
    """Twice the work in the same time."""
    assert examine(make_fake_cuda())["event times"].verdict == "failed"


def test_a_lost_device_fails_each_part_in_words(examine: Examine, timed_cuda: Callable[..., Any]) -> None:
    """The step goes on to its end."""
    fake = timed_cuda()
    fake.failures["cudaStreamBeginCapture"] = 700
    found = examine(fake)
    assert found["round trips under load"].verdict == "passed"
    assert "cannot be used any more" in found["capture and replay"].words
    assert found["leaks"].verdict == "failed"
