"""What `benchmarks/gpu.py` makes of its measurements; the measurements need a GPU."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_gpu", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules["benchmark_gpu"] = module
    spec.loader.exec_module(module)
    return module


class Slow:
    """A backend whose calls are counted."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.waits = 0

    def synchronize(self) -> None:
        self.waits += 1


def test_everyone_is_first_equally_often(gpu: ModuleType) -> None:
    """And nobody is left out of a round."""
    orders = list(gpu.turns(["a", "b", "c"], 6))
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert Counter(order[0] for order in orders) == {"a": 2, "b": 2, "c": 2}


def test_ratios_are_taken_round_by_round(gpu: ModuleType) -> None:
    """A machine that is slow in one round is slow for both."""
    own, eager = gpu.Timing(wall_ms=[1.0, 10.0, 2.0]), gpu.Timing(wall_ms=[2.0, 30.0, 5.0])
    assert gpu.ratios(own, eager) == (2.5, 2.0, 3.0)
    assert "2.50x (2.00..3.00)" in gpu.line("dino", "tensorrt", own, eager)
    assert "gpu" not in gpu.line("dino", "tensorrt", own, eager)
    own.gpu_ms = [0.5, 0.5, 0.5]
    assert "0.500 ms gpu" in gpu.line("dino", "tensorrt", own, eager)


def test_every_backend_is_timed_in_every_round(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as fills the time, and the device is waited for before the clock stops."""
    monkeypatch.setattr(gpu, "FILL_S", 0.0)
    backends: dict[str, Any] = {"a": Slow(), "b": Slow()}
    done: list[str] = []
    calls = {name: lambda name=name: done.append(name) for name in backends}
    timings = gpu.time_calls(backends, calls, 4)
    assert {name: len(timing.wall_ms) for name, timing in timings.items()} == {"a": 4, "b": 4}
    assert done[-8:] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert backends["a"].waits == 2 + 2 * 4
