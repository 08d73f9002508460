"""Quantised layers in ONNX Runtime's form: fused into integer kernels, exact, and half precision outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from gmos_deploy.calibration.graph.integer_kernels import use_integer_kernels
from gmos_deploy.calibration.graph.quantised_graph import quantise
from gmos_deploy.calibration.quantiser.formats import FORMATS
from gmos_deploy.calibration.quantiser.layer_choice import ActivationChoice, StoredLayer
from gmos_deploy.calibration.quantiser.linear_layers import find_activations
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.onnx.sessions import configure_quantised

CHANNELS, ROWS = 256, 24
RNG = np.random.default_rng(7)
WEIGHTS = [RNG.standard_normal((CHANNELS, n)).astype(np.float16) for n in (32, 48)]
X = RNG.standard_normal((ROWS, CHANNELS)).astype(np.float16)


def session(path: Path, *, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """As bundles are run."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    configure_quantised(settings, fp8=False)
    if optimised is not None:
        settings.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def normed(x: np.ndarray) -> np.ndarray:
    """What the layers of `small_model` read, float16."""
    wide = x.astype(np.float32)
    spread = np.sqrt(wide.var(axis=1, keepdims=True) + 1e-5)
    return ((wide - wide.mean(axis=1, keepdims=True)) / spread).astype(np.float16)


def stored_layer(weight: np.ndarray) -> StoredLayer:
    """A weight (K, N) rounded to the nearest in int8."""
    form = FORMATS["int8"]
    scale = form.scale(np.abs(weight.astype(np.float32)).max(axis=0))
    return StoredLayer(form=form, weight=form.rounded(weight, scale), scale=scale, bias_correction=None)


def quantised(model: ir.Model, weights: list[np.ndarray], threshold: float, **how: Any) -> ir.Model:
    (activation,) = find_activations(model.graph)
    quantised = {
        layer.node: stored_layer(weight) for layer, weight in zip(activation.layers, weights, strict=True)
    }
    choice = ActivationChoice(
        activation=activation,
        threshold=threshold,
        method="max",
        factors=None,
        alpha=0.0,
        mean_shift=None,
        quantised=quantised,
        weight_only=how.pop("weight_only", {}),
        error=0.0,
    )
    quantise(model, [choice], FORMATS["int8"], target="onnxruntime", **how)
    return model


def expected(x: np.ndarray, stored: StoredLayer, threshold: float) -> np.ndarray:
    """The product of the whole numbers, exactly, and then in half precision."""
    form = FORMATS["int8"]
    scale = form.scale(threshold)
    whole = form.rounded(normed(x), scale).astype(np.int64) @ stored.weight.astype(np.int64)
    return (whole * (np.float64(scale) * stored.scale.astype(np.float64))).astype(np.float16)


def test_layers_become_integer_kernels_and_give_half(
    small_model: Callable[..., ir.Model], tmp_path: Path
) -> None:
    """One for each layer; nothing else of the graph is touched, and its outputs keep their names and types."""
    model = quantised(small_model(WEIGHTS, np.ones(CHANNELS)), WEIGHTS, 4.0)
    assert [value.name for value in model.graph.outputs] == ["y0", "y1"]
    ir.save(model, tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    given = session(tmp_path / "m.onnx", optimised=tmp_path / "o.onnx").run(None, {"x": X})
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node)
    assert counts["MatMulIntegerToFloat"] == 2
    assert counts["MatMul"] == counts["DequantizeLinear"] == 0
    for values, weight in zip(given, WEIGHTS, strict=True):
        assert values.dtype == np.float16
        wanted = expected(X, stored_layer(weight), 4.0)
        # Where the norm's float32 and float16 fall on two sides of a step the product differs by a step's share.
        error = np.linalg.norm(values.astype(float) - wanted) / np.linalg.norm(wanted.astype(float))
        assert error < 2e-3


def test_products_do_not_saturate(small_model: Callable[..., ir.Model], tmp_path: Path) -> None:
    """Greatest inputs times greatest weights, summed up: sixteen bits hold not even two of them."""
    weight = np.where(np.arange(CHANNELS)[:, None] % 2, -1.0, 1.0) * np.ones((1, 32))
    x = np.tile(np.where(np.arange(CHANNELS) % 2, -1.0, 1.0), (ROWS, 1)).astype(np.float16)
    model = quantised(small_model([weight], np.ones(CHANNELS)), [weight], 1.0)
    ir.save(model, tmp_path / "m.onnx")
    (given,) = session(tmp_path / "m.onnx").run(None, {"x": x})
    np.testing.assert_allclose(given.astype(float), CHANNELS, rtol=2e-3)


def test_rounding_is_to_the_nearest(small_model: Callable[..., ir.Model], tmp_path: Path) -> None:
    """ONNX Runtime before 1.30 cuts float16 off: on average a half of a step towards zero."""
    weight = np.eye(CHANNELS)[:, :32]
    model = quantised(small_model([weight], np.ones(CHANNELS)), [weight], 8.0)
    ir.save(model, tmp_path / "m.onnx")
    (given,) = session(tmp_path / "m.onnx").run(None, {"x": X})
    step = float(FORMATS["int8"].scale(8.0))
    error = np.abs(given.astype(float)) - np.abs(normed(X)[:, :32].astype(float))
    assert abs(error.mean()) < 0.05 * step
    assert np.abs(error).max() < 0.52 * step


def test_layers_in_half_precision_stay_as_they_are(small_model: Callable[..., ir.Model]) -> None:
    """With their weights in half, or in eight bits."""
    for weight_only in (False, True):
        weights: Mapping[str, StoredLayer] = {}
        name = "blocks.1.mlp.fc1/MatMul_1"
        if weight_only:
            weights = {name: stored_layer(WEIGHTS[1])}
        model = quantised(
            small_model(WEIGHTS, np.ones(CHANNELS)), WEIGHTS, 4.0, excluded=[name], weight_only=weights
        )
        nodes = {node.name: node for node in model.graph}
        assert nodes[name].inputs[0].name == "normed"
        assert nodes[name].outputs[0].dtype == ir.DataType.FLOAT16
        if weight_only:
            scale = nodes[f"{name}/DequantizeLinear"].inputs[1]
            assert scale.const_value.dtype == ir.DataType.FLOAT16
        assert nodes["blocks.0.mlp.fc1/MatMul_0/DequantizeLinear"].inputs[1].dtype == ir.DataType.FLOAT


def test_a_graph_without_quantised_layers_is_left_alone(small_model: Callable[..., ir.Model]) -> None:
    """Not a node more."""
    model = small_model(WEIGHTS, np.ones(CHANNELS))
    before = [node.op_type for node in model.graph]
    use_integer_kernels(model)
    assert [node.op_type for node in model.graph] == before


def test_a_bundle_has_them_for_onnx_runtime_alone(int8_bundle: Any, half_bundle: Bundle) -> None:
    """TensorRT's graph is in half precision; a network whose two graphs were one has two, and weights once."""
    bundle, _ = int8_bundle
    for name in ("dino", "memory_encoder"):
        standard, own = (
            ir.load(bundle.graph_file(name, target)).graph for target in ("standard", "onnxruntime")
        )
        for graph, wanted in ((standard, ir.DataType.FLOAT16), (own, ir.DataType.FLOAT)):
            pairs = [node for node in graph if node.op_type == "QuantizeLinear"]
            assert pairs
            assert {node.inputs[1].dtype for node in pairs} == {wanted}
    shared = half_bundle.networks["memory_encoder"].graphs
    assert shared["standard"] == shared["onnxruntime"]
    sizes = [
        bundle.files.size(file) for file in bundle.networks["memory_encoder"].graphs["onnxruntime"].weights
    ]
    assert sum(sizes) < 1.02 * sum(
        bundle.files.size(file) for file in bundle.networks["memory_encoder"].graphs["standard"].weights
    )
