"""ONNX Runtime's profile as layer times: warm-up left out, runs put together, kernels on the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.onnx.trace import read_onnx_trace


def node(ts: int, name: str, us: int, operator: str = "MatMul", provider: str = "CPU") -> dict[str, Any]:
    sizes = {"activation_size": "100", "parameter_size": "40", "output_size": "60"}
    return {
        "cat": "Node", "ph": "X", "ts": ts, "dur": us, "name": f"{name}_kernel_time",
        "args": {"op_name": operator, "provider": f"{provider}ExecutionProvider", **sizes},
    }  # fmt: skip


def run(ts: int) -> dict[str, Any]:
    return {"cat": "Session", "ph": "X", "ts": ts, "dur": 90, "name": "model_run", "args": {}}


@pytest.fixture
def trace(tmp_path: Path) -> Any:
    def write(events: list[dict[str, Any]]) -> Path:
        path = tmp_path / "trace.json"
        path.write_text(json.dumps(events))
        return path

    return write


def test_means_of_the_calls_that_count(trace: Any) -> None:
    """Two calls of two runs each after one of warm-up: milliseconds, calls and bytes of a call."""
    events = []
    for number, us in enumerate([9000, 9000, 100, 200, 300, 400]):
        start = 10_000 * number
        # ONNX Runtime writes an event when it ends: the run comes after its nodes.
        events += [node(start + 1, "a", us), node(start + 2, "b", 10, "Relu"), run(start)]
    found = read_onnx_trace(trace(events), warm_up=1, iterations=2)
    a, b = found.layers
    assert (found.clock, found.iterations) == ("host", 2)
    assert (a.name, a.operator, a.provider) == ("a", "MatMul", "CPU")
    assert a.ms == pytest.approx((100 + 200 + 300 + 400) / 1e3 / 2)
    assert (a.calls, a.moved_bytes) == (2, 400)
    assert (b.operator, b.ms) == ("Relu", pytest.approx(0.02))


def test_kernels_are_the_time_of_their_node(trace: Any) -> None:
    """Where the build says what ran on the device; a node without kernels keeps the host's time."""
    kernel = {
        "cat": "Kernel", "ph": "X", "ts": 5, "dur": 700, "name": "sgemm",
        "args": {"parent_name": "a_kernel_time"},
    }  # fmt: skip
    events = [run(0), node(1, "a", 10, provider="CUDA"), kernel, node(8, "shape", 3, "Shape")]
    found = read_onnx_trace(trace(events), warm_up=0, iterations=1)
    assert found.clock == "device"
    assert {layer.name: layer.ms for layer in found.layers} == {
        "a": pytest.approx(0.7),
        "shape": pytest.approx(0.003),
    }


@pytest.mark.parametrize("events", [[], [run(0)], [{"name": "model_run"}], {"x": 1}])
def test_another_trace_is_refused(trace: Any, events: Any) -> None:
    """In one line that says how to go on."""
    with pytest.raises(GmosError, match=r"trace\.json cannot be read \(.*leave out --layers"):
        read_onnx_trace(trace(events), warm_up=0, iterations=1)
