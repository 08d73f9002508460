"""The first layer in which two graphs differ: found by name, across precisions, whole and by search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.compare.first_divergence import ALL_FLOPS, FirstDivergence, first_divergence
from gmos_deploy.evaluation.compare.recording import Call
from gmos_deploy.evaluation.report.files import plain
from gmos_deploy.runtime.bundle.manifest import GraphContent
from gmos_deploy.runtime.onnx.sessions import OnnxDevice

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

LAYERS, WIDTH = 12, 8
LIMIT = 1e-4

CPU = OnnxDevice(kind="cpu")
CALL = Call(index=3, inputs={"tokens": np.ones((2, WIDTH), np.float32)}, outputs={})


def write_graph(
    path: Path,
    *,
    scaled: tuple[int, float] | None = None,
    dtype: type[np.generic] = np.float32,
    doubled: int | None = None,
    prefix: str = "pi3.decoder",
) -> Path:
    """A chain of `y = tanh(x w)` with the node names that the exporter gives, and a second output halfway.

    `scaled` is a layer whose weight is multiplied, `doubled` one that has a product with the identity more before
    its own; half precision adds casts around each activation.
    """
    rng = np.random.default_rng(0)
    half = dtype is np.float16
    kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    nodes, weights, numbers = [], [], iter(range(1000))

    def add(operator: str, module: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = f"{module}/{operator}_{next(numbers)}"
        nodes.append(onnx.helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output

    value = "tokens"
    for layer in range(LAYERS):
        weight = rng.standard_normal((WIDTH, WIDTH)) / 2
        if scaled is not None and scaled[0] == layer:
            weight = weight * scaled[1]
        weights.append(onnx.numpy_helper.from_array(weight.astype(dtype), f"w{layer}"))
        module = f"{prefix}.{layer}"
        if layer == doubled:
            weights.append(onnx.numpy_helper.from_array(np.eye(WIDTH).astype(dtype), "eye"))
            value = add("MatMul", f"{module}.fc", [value, "eye"], "same")
        value = add("MatMul", f"{module}.fc", [value, f"w{layer}"], f"linear_{layer}_{dtype.__name__}")
        if half:
            value = add("Cast", module, [value], f"up_{layer}", to=onnx.TensorProto.FLOAT)
        value = add("Tanh", module, [value], f"tanh_{layer}_{dtype.__name__}")
        if half:
            value = add("Cast", module, [value], f"down_{layer}", to=kind)
        if layer == LAYERS // 2:
            add("Identity", prefix, [value], "half")
    add("Identity", prefix, [value], "geometry")
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("tokens", kind, ["B", WIDTH])],
        [onnx.helper.make_tensor_value_info(name, kind, ["B", WIDTH]) for name in ("half", "geometry")],
        weights,
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture
def find(tmp_path: Path) -> Callable[..., FirstDivergence]:
    """Compares two graphs that are `write_graph`'s keywords."""

    def call(a: dict[str, Any], b: dict[str, Any], *, flops: float = 1.0, **options: Any) -> FirstDivergence:
        bundles = []
        for name, keywords in (("a", a), ("b", b)):
            path = write_graph(tmp_path / f"{name}.onnx", **keywords)
            bundles.append(
                SimpleNamespace(
                    root=tmp_path / name,
                    model=SimpleNamespace(sam2_image_px=1, pi3_channels=1, frame_blocks=0),
                    networks={"pi3_decoder_like": SimpleNamespace(flops=flops, precision="fp32")},
                    graph_content=lambda *_, path=path: GraphContent(
                        path=path, graph=path.read_bytes(), weights={}
                    ),
                    table_source=lambda: SimpleNamespace(head_dim=1),
                )
            )
        return first_divergence("pi3_decoder_like", CALL, *bundles, (CPU, CPU), limit=LIMIT, **options)

    return call


def test_equal(find: Callable[..., FirstDivergence]) -> None:
    """Equal graphs have no first layer; all tensors were compared."""
    found = find({}, {})
    assert found.first is None
    assert found.looked_at == found.tensors == 2 * LAYERS
    assert "no layer's relative error passes 0.0001" in str(found)


@pytest.mark.parametrize("flops", [1.0, 10 * ALL_FLOPS], ids=["all", "search"])
@pytest.mark.parametrize("layer", [0, 7, LAYERS - 1])
def test_planted_weight(find: Callable[..., FirstDivergence], layer: int, flops: float) -> None:
    """A perturbed weight is named with module, operator and node, and adds most; a search finds the same."""
    found = find({}, {"scaled": (layer, 1.01)}, flops=flops, at_once=4)
    assert found.first is not None
    assert (found.first.module, found.first.operator) == (f"pi3.decoder.{layer}.fc", "MatMul")
    assert found.first.node == f"pi3.decoder.{layer}.fc/MatMul_{2 * layer + (layer > LAYERS // 2)}"
    assert found.first.relative == pytest.approx(0.01, rel=1e-3)
    assert found.jumps[0] == found.first
    assert f"first differs in pi3.decoder.{layer}.fc, MatMul" in str(found)
    assert (found.looked_at < found.tensors) == (flops > ALL_FLOPS)


def test_other_precision(find: Callable[..., FirstDivergence]) -> None:
    """Half precision has other tensor names, numbers and casts; its layers are matched all the same."""
    found = find({}, {"dtype": np.float16, "scaled": (5, 1.1)})
    assert found.tensors == 2 * LAYERS
    assert found.jumps[0].module == "pi3.decoder.5.fc"
    assert found.jumps[0].added == pytest.approx(0.1, rel=0.05)


def test_an_operator_more(find: Callable[..., FirstDivergence]) -> None:
    """Where a module has an operator more, that module's are not paired by their order; the others are."""
    found = find({}, {"doubled": 3})
    assert found.first is None
    assert found.tensors == 2 * LAYERS - 1


def test_one_output(find: Callable[..., FirstDivergence]) -> None:
    """Only what an output is computed from is looked at."""
    late = {"scaled": (LAYERS - 1, 2.0)}
    assert find({}, late, output="half").first is None
    assert find({}, late, output="geometry").first is not None


def test_infinite_on_one_side(find: Callable[..., FirstDivergence]) -> None:
    """A layer that is finite on one side only differs there, and its error is null in JSON."""
    found = find({}, {"scaled": (2, np.inf)})
    assert found.first is not None
    assert found.first.module == "pi3.decoder.2.fc"
    assert plain(found)["first"]["relative"] is None
    assert str(found.first).endswith("relative error inf")


def test_nothing_in_common(find: Callable[..., FirstDivergence]) -> None:
    """Graphs without common names cannot be compared layer by layer; what to do is said."""
    with pytest.raises(GmosError, match="have no layer names in common; export both with this version"):
        find({}, {"prefix": "other"})
