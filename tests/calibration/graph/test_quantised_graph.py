"""Q/DQ pairs in graphs: where they are, what is stored, what the graph then computes; the form of integer kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from gmos_deploy.calibration.graph.quantised_graph import quantise, use_integer_kernels
from gmos_deploy.calibration.quantiser.formats import FORMATS
from gmos_deploy.calibration.quantiser.layer_choice import ActivationChoice, StoredLayer
from gmos_deploy.calibration.quantiser.linear_layers import all_layers, find_activations, groups, weight_of
from gmos_deploy.runtime.bundle.manifest import TARGETS, Bundle
from gmos_deploy.runtime.onnx.sessions import configure_quantised

RNG = np.random.default_rng(11)
WEIGHTS = [(RNG.standard_normal((64, n)) / 8).astype(np.float16) for n in (32, 48)]
X = RNG.standard_normal((40, 64)).astype(np.float16)
GAMMA = np.ones(64)

CHANNELS, ROWS = 256, 24
KERNEL_RNG = np.random.default_rng(7)
KERNEL_WEIGHTS = [KERNEL_RNG.standard_normal((CHANNELS, n)).astype(np.float16) for n in (32, 48)]
KERNEL_X = KERNEL_RNG.standard_normal((ROWS, CHANNELS)).astype(np.float16)


def run(model: ir.Model) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    options = onnxruntime.SessionOptions()
    # As the package's own sessions: without it, sums of 8-bit products saturate on processors that have no VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": X})


def activation_choice(model: ir.Model, chosen: Callable[..., Any], precision: str, **how: Any) -> Any:
    (activation,) = find_activations(model.graph)
    nodes = {node.name: node for node in model.graph}
    rows = (X - X.mean(1, keepdims=True)) / X.std(1, keepdims=True) * np.asarray(how.pop("gamma", GAMMA))
    rows = rows + np.asarray(how.pop("shift", 0.0))
    weights = {layer.node: weight_of(nodes[layer.node]) for layer in activation.layers}
    return chosen(activation, rows.astype(np.float32), weights, FORMATS[precision], **how)


@pytest.mark.parametrize(("precision", "limit"), [("int8", 0.02), ("fp8", 0.05)])
def test_layers_compute_the_same_in_eight_bits(
    precision: str,
    limit: float,
    small_model: Callable[..., ir.Model],
    chosen: Callable[..., Any],
) -> None:
    """Weights in eight bits, one pair for what both layers read; errors of the format's size, but for their means."""
    model = small_model(WEIGHTS, GAMMA)
    expected = run(model)
    choice = activation_choice(model, chosen, precision)
    quantise(model, [choice], FORMATS[precision])
    assert Counter(node.op_type for node in model.graph) == {
        "LayerNormalization": 1,
        "QuantizeLinear": 1,
        "DequantizeLinear": 3,
        "MatMul": 2,
        "Add": 2,
    }
    stored = [value.const_value for value in model.graph.initializers.values() if value.shape.rank() == 2]
    assert model.graph.initializers["normed.scale"].shape.rank() == 0
    assert [tensor.dtype for tensor in stored] == [FORMATS[precision].dtype] * 2
    assert sum(tensor.nbytes for tensor in stored) == sum(weight.size for weight in WEIGHTS)
    own = small_model(WEIGHTS, GAMMA)
    quantise(own, [choice], FORMATS[precision], target="onnxruntime")
    for given, wanted in zip(run(own), expected, strict=True):
        assert given.dtype == np.float16
        error = np.linalg.norm(given.astype(float) - wanted) / np.linalg.norm(wanted.astype(float))
        assert 0 < error < limit
        # What the layers read is in half precision, and so is the correction.
        assert np.abs((given.astype(float) - wanted).mean(0)).max() < 2e-3


def test_weights_and_scales_are_those_of_onnx_runtimes_quantiser(
    small_model: Callable[..., ir.Model], chosen: Callable[..., Any]
) -> None:
    """On the same ranges: the same integers but for ties, scales to a unit in the last place."""
    model = small_model(WEIGHTS, GAMMA)
    choice = activation_choice(
        model, chosen, "int8", method="max", smoothquant=False, mean_shift=False, gptq=False
    )
    proto = ir.to_proto(model)
    ends = np.array(-choice.threshold, np.float16), np.array(choice.threshold, np.float16)
    reference = QDQQuantizer(
        proto,
        True,
        False,
        QuantType.QInt8,
        QuantType.QInt8,
        TensorsData(CalibrationMethod.MinMax, {"normed": TensorData(lowest=ends[0], highest=ends[1])}),
        [layer.node for layer in choice.activation.layers],
        [],
        ["MatMul"],
        {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
        },
    )
    reference.quantize_model()
    theirs = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in reference.model.initializer()}
    quantise(model, [choice], FORMATS["int8"])
    ours = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    np.testing.assert_allclose(float(ours["normed.scale"]), float(theirs["normed_scale"]), rtol=2**-9)
    for number, layer in enumerate(choice.activation.layers):
        scales = theirs[f"weight_{number}_scale"].astype(np.float32)
        np.testing.assert_allclose(ours[f"{layer.node}.scale"].astype(np.float32), scales, rtol=2**-9)
        difference = ours[f"{layer.node}.quantised"].astype(int) - theirs[f"weight_{number}_quantized"]
        assert np.abs(difference).max() <= 1
        # They divide by the exact scale, we by the stored one.
        assert np.count_nonzero(difference) < 0.02 * difference.size


def test_balancing_changes_nothing_but_the_rounding(
    small_model: Callable[..., ir.Model], chosen: Callable[..., Any]
) -> None:
    """A normalisation with an outlier channel: the layer that stays in half computes what it did."""
    gamma = GAMMA.copy()
    gamma[5] = 300.0
    weights = [weight.copy() for weight in WEIGHTS]
    for weight in weights:
        weight[5] /= 300.0
    model = small_model(weights, gamma)
    expected = run(model)
    choice = activation_choice(model, chosen, "int8", gamma=gamma)
    assert choice.factors is not None
    quantise(model, [choice], FORMATS["int8"], excluded=["blocks.1.mlp.fc1/MatMul_1"])
    given = run(model)
    half = np.linalg.norm(given[1].astype(float) - expected[1]) / np.linalg.norm(expected[1].astype(float))
    eight = np.linalg.norm(given[0].astype(float) - expected[0]) / np.linalg.norm(expected[0].astype(float))
    assert half < 2e-3
    assert 2e-3 < eight < 0.03


def test_excluded_layers_leave_the_graph_as_it_was(
    small_model: Callable[..., ir.Model], chosen: Callable[..., Any]
) -> None:
    """Not a node more."""
    model = small_model(WEIGHTS, GAMMA)
    before = [node.op_type for node in model.graph]
    choice = activation_choice(model, chosen, "int8")
    quantise(model, [choice], FORMATS["int8"], excluded=[layer.node for layer in choice.activation.layers])
    assert [node.op_type for node in model.graph] == before


@pytest.mark.parametrize("name", ["dino", "pi3_decoder", "sam2_encoder", "memory_attention", "proposer"])
def test_both_forms_of_a_network_have_the_same_layers(name: Any, half_bundle: Bundle) -> None:
    """So that what was measured on one holds for the other."""
    standard, own = (
        find_activations(ir.load(half_bundle.graph_file(name, target)).graph) for target in TARGETS
    )
    assert standard == own
    assert standard


def test_the_layers_are_all_linear_layers_of_transformers_and_no_heads(half_bundle: Bundle) -> None:
    """Four a block; the last decoder block's query and key-value products are slices of one weight."""
    activations = find_activations(ir.load(half_bundle.graph_file("pi3_decoder", "standard")).graph)
    layers = all_layers(activations)
    assert len(layers) == 4 * 4 + 1
    assert [layer.shape for layer in layers if layer.module == "pi3.decoder.3.attn.qkv"] == [
        (64, 64),
        (64, 128),
    ]
    assert list(groups(activations))[:3] == ["pi3.decoder.0.attn", "pi3.decoder.0.mlp", "pi3.decoder.1.attn"]
    head = find_activations(ir.load(half_bundle.graph_file("proposer", "standard")).graph)
    modules = {layer.module for layer in all_layers(head)}
    assert any("trans_decoder" in module for module in modules)
    assert not any(word in module for module in modules for word in ("_head", "upsampling", "hypernetwork"))


def test_only_a_normalisation_that_nothing_else_reads_takes_smoothquant(half_bundle: Bundle) -> None:
    """Pre-norm blocks have such; the proposer's post-norm blocks pass theirs on beside the layers."""
    decoder = find_activations(ir.load(half_bundle.graph_file("pi3_decoder", "standard")).graph)
    assert sum(activation.norm is not None for activation in decoder) == 2 * 4 - 1
    proposer = find_activations(ir.load(half_bundle.graph_file("proposer", "standard")).graph)
    assert all(activation.norm is None for activation in proposer)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("excluded", [False, True])
def test_means_are_taken_away_and_added_again(
    biased: bool, excluded: bool, small_model: Callable[..., ir.Model], chosen: Callable[..., Any]
) -> None:
    """Before and behind the layers; a bias that is there takes the correction, a layer in half precision none."""
    beta, bias = 20 + 3 * RNG.standard_normal(64), [RNG.standard_normal(n) for n in (32, 48)]
    model = small_model(WEIGHTS, GAMMA, beta=beta, biases=bias if biased else None)
    expected = run(model)
    choice = activation_choice(model, chosen, "fp8", shift=beta)
    plain = activation_choice(model, chosen, "fp8", shift=beta, mean_shift=False)
    assert choice.mean_shift is not None
    assert choice.error < 0.2 * plain.error
    quantise(
        model,
        [choice],
        FORMATS["fp8"],
        excluded=[layer.node for layer in choice.activation.layers[1:] if excluded],
    )
    counts = Counter(node.op_type for node in model.graph)
    assert counts["Sub"] == 1
    assert counts["Add"] == (2 if biased else 2 - excluded)
    given = run(model)
    for part, wanted, rounded in zip(given, expected, (True, not excluded), strict=True):
        spread = np.linalg.norm(wanted - wanted.astype(float).mean(0))
        error = np.linalg.norm(part.astype(float) - wanted) / spread
        assert error < (0.05 if rounded else 1e-6)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("outlier", [False, True])
def test_a_layer_in_half_precision_may_have_its_weights_in_eight_bits(
    precision: str,
    outlier: bool,
    small_model: Callable[..., ir.Model],
    chosen: Callable[..., Any],
) -> None:
    """It reads what it did, smoothed with the others where they are; it is nearer than one in eight bits."""
    gamma, weights = GAMMA.copy(), [weight.copy() for weight in WEIGHTS]
    if outlier:
        gamma[5] = 300.0
        for weight in weights:
            weight[5] /= 300.0
    model = small_model(weights, gamma)
    expected = run(model)
    choice = activation_choice(model, chosen, precision, gamma=gamma, weight_only=True)
    assert (choice.factors is not None) == (outlier and precision == "int8")
    quantise(model, [choice], FORMATS[precision], excluded=["blocks.1.mlp.fc1/MatMul_1"])
    nodes = {node.name: node for node in model.graph}
    weight_only = nodes["blocks.1.mlp.fc1/MatMul_1/DequantizeLinear"]
    # int8 has equal steps: a row of small weights for an input that is large needs an exponent, or balancing.
    exponent = outlier and precision == "fp8"
    assert weight_only.inputs[0].const_value.dtype == FORMATS["fp8" if exponent else "int8"].dtype
    assert weight_only.attributes.get_int("axis", 0) == (0 if exponent else 1)
    assert nodes["blocks.1.mlp.fc1/MatMul_1"].inputs[0].name == "normed"
    assert nodes["blocks.0.mlp.fc1/MatMul_0"].inputs[0].name == "normed.dequantised"
    eight, half = (
        np.linalg.norm(given.astype(float) - wanted) / np.linalg.norm(wanted.astype(float))
        for given, wanted in zip(run(model), expected, strict=True)
    )
    assert half < (0.03 if exponent else 0.01)
    assert half < eight


def test_all_layers_may_have_only_their_weights_in_eight_bits(
    small_model: Callable[..., ir.Model], chosen: Callable[..., Any]
) -> None:
    """Then nothing is quantised on the way."""
    model = small_model(WEIGHTS, GAMMA)
    choice = activation_choice(model, chosen, "fp8", weight_only=True, gptq=False)
    quantise(model, [choice], FORMATS["fp8"], excluded=[layer.node for layer in choice.activation.layers])
    assert Counter(node.op_type for node in model.graph) == {
        "LayerNormalization": 1,
        "DequantizeLinear": 2,
        "MatMul": 2,
    }


def test_layers_are_found_with_what_they_read(small_model: Callable[..., ir.Model]) -> None:
    """Two that read one tensor share an activation."""
    (activation,) = find_activations(small_model(WEIGHTS, GAMMA).graph)
    assert [layer.shape for layer in activation.layers] == [(64, 32), (64, 48)]
    assert activation.norm == "norm/LayerNormalization_0"


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
    model = quantised(small_model(KERNEL_WEIGHTS, np.ones(CHANNELS)), KERNEL_WEIGHTS, 4.0)
    assert [value.name for value in model.graph.outputs] == ["y0", "y1"]
    ir.save(model, tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    given = session(tmp_path / "m.onnx", optimised=tmp_path / "o.onnx").run(None, {"x": KERNEL_X})
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node)
    assert counts["MatMulIntegerToFloat"] == 2
    assert counts["MatMul"] == counts["DequantizeLinear"] == 0
    for values, weight in zip(given, KERNEL_WEIGHTS, strict=True):
        assert values.dtype == np.float16
        wanted = expected(KERNEL_X, stored_layer(weight), 4.0)
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
    (given,) = session(tmp_path / "m.onnx").run(None, {"x": KERNEL_X})
    step = float(FORMATS["int8"].scale(8.0))
    error = np.abs(given.astype(float)) - np.abs(normed(KERNEL_X)[:, :32].astype(float))
    assert abs(error.mean()) < 0.05 * step
    assert np.abs(error).max() < 0.52 * step


def test_layers_in_half_precision_stay_as_they_are(small_model: Callable[..., ir.Model]) -> None:
    """With their weights in half, or in eight bits."""
    for weight_only in (False, True):
        weights: Mapping[str, StoredLayer] = {}
        name = "blocks.1.mlp.fc1/MatMul_1"
        if weight_only:
            weights = {name: stored_layer(KERNEL_WEIGHTS[1])}
        model = quantised(
            small_model(KERNEL_WEIGHTS, np.ones(CHANNELS)),
            KERNEL_WEIGHTS,
            4.0,
            excluded=[name],
            weight_only=weights,
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
    model = small_model(KERNEL_WEIGHTS, np.ones(CHANNELS))
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
