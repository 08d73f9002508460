"""A graph on ONNX Runtime with the host's arrays: dtypes, tables, bytes with weights beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.onnx.host_graph import HostGraph

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TEXT = """<ir_version: 10, opset_import: ["": 20]>
scaled (float16[N] x, float[N] table, float16[1] w) => (float16[N] y, float[N] z) {
    y = Mul (x, w)
    z = Identity (table)
}"""


def model() -> onnx.ModelProto:
    """The product of x and a weight that is an initializer, and a table that is passed on."""
    found = onnx.parser.parse_model(TEXT)
    found.graph.initializer.append(onnx.numpy_helper.from_array(np.full(1, 2, np.float16), "w"))
    del found.graph.input[2]
    return found


def table(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {"table": np.arange(shapes["x"][0], dtype=np.float32), "other": np.zeros(1)}


@pytest.mark.parametrize("as_bytes", [False, True])
def test_inputs_and_outputs_are_float32(tmp_path: Path, as_bytes: bool) -> None:
    """Whatever the graph computes in; tables are added, those that it does not read are not."""
    path = tmp_path / "g.onnx"
    onnx.save(model(), path, save_as_external_data=True, size_threshold=0, location="w.data")
    graph = (
        HostGraph(path.read_bytes(), folder=tmp_path, tables=table)
        if as_bytes
        else HostGraph(path, tables=table)
    )
    inputs = {"x": np.array([1.0, 0.5, 3.0], np.float32)}
    found = graph.run(inputs)
    assert {name: values.dtype for name, values in found.items()} == {"y": np.float32, "z": np.float32}
    np.testing.assert_array_equal(found["y"], [2, 1, 6])
    np.testing.assert_array_equal(found["z"], [0, 1, 2])
    assert list(graph.run(inputs, ["z"])) == ["z"]
    assert {name: values.dtype for name, values in graph.feeds(inputs).items()} == {
        "x": np.float16,
        "table": np.float32,
    }


def test_bytes_that_are_no_graph_are_refused() -> None:
    """With a name, as files are."""
    with pytest.raises(GmosError, match="cannot load a changed graph"):
        HostGraph(b"no graph")
