"""Every exported network against the reference, as the runtime calls it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from gmos_deploy.export.onnx.exported_network import NetworkExporter
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.networks import ReferenceNetworks
from gmos_deploy.runtime.bundle.manifest import TARGETS, Bundle, BundleNetwork
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.comparison.parity import LIMITS
from gmos_deploy.runtime.contract import NetworkName, network_specs
from gmos_deploy.runtime.onnx.backend import OnnxBackend

FLOAT32_RELATIVE = 1e-5
"""L2 error over the reference's norm: sums in another order give 1e-6."""

RESIZE_RELATIVE = 1e-4
"""The same for ONNX Runtime's antialiased resize, which weighs taps a little differently."""

Array = NDArray[Any]

CASES: list[tuple[NetworkName, dict[str, int]]] = [
    ("sam2_resize", {"B": 1, "H": 90, "W": 160}),
    ("sam2_resize", {"B": 3, "H": 200, "W": 150}),
    ("dino", {"B": 1, "Hp": 112, "Wp": 168}),
    ("dino", {"B": 4, "Hp": 70, "Wp": 70}),
    ("dino", {"B": 2, "Hp": 56, "Wp": 14}),
    ("pi3_decoder", {"B": 1, "h": 8, "w": 12}),
    ("pi3_decoder", {"B": 3, "h": 5, "w": 3}),
    ("sam2_encoder", {"B": 1}),
    ("sam2_encoder", {"B": 4}),
    ("proposer", {"B": 1, "h": 8, "w": 12}),
    ("proposer", {"B": 3, "h": 2, "w": 9}),
    ("proposal_labels", {"B": 1, "H": 20, "W": 31}),
    ("proposal_labels", {"B": 3, "H": 240, "W": 135}),
    ("mask_prompt", {"O": 1}),
    ("mask_prompt", {"O": 5}),
    ("memory_attention", {"O": 1, "R": 1, "P": 0}),
    ("memory_attention", {"O": 3, "R": 1, "P": 1}),
    ("memory_attention", {"O": 1, "R": 7, "P": 16}),
    ("memory_attention", {"O": 2, "R": 10, "P": 0}),
    ("mask_decoder", {"O": 1}),
    ("mask_decoder", {"O": 5}),
    ("memory_encoder", {"O": 1}),
    ("memory_encoder", {"O": 5}),
    ("tracked_labels", {"O": 1, "H": 20, "W": 31}),
    ("tracked_labels", {"O": 5, "H": 240, "W": 135}),
]


def assert_close(given: Array, expected: Array, tolerance: float) -> None:
    """Equal whole numbers; floating-point ones within a relative L2 error."""
    assert given.shape == expected.shape
    assert given.dtype == expected.dtype
    if not np.issubdtype(expected.dtype, np.floating):
        np.testing.assert_array_equal(given, expected)
        return
    error = np.linalg.norm((given - expected).ravel()) / np.linalg.norm(expected.ravel())
    assert error < tolerance


@pytest.mark.parametrize(("name", "lengths"), CASES, ids=lambda value: str(value).replace(" ", ""))
def test_a_network_of_the_bundle_equals_the_reference(
    name: NetworkName,
    lengths: dict[str, int],
    tiny_bundle: Bundle,
    onnx_backend: OnnxBackend,
    torch_backend: TorchBackend,
) -> None:
    """At batch sizes, resolutions and memory lengths other than those it was captured with."""
    entry = tiny_bundle.networks[name]
    inputs = seeded_inputs(name, entry.inputs, tiny_bundle.model, lengths)
    host = {tensor.name for tensor in entry.inputs if tensor.host}

    def run(backend: OnnxBackend | TorchBackend) -> dict[str, Any]:
        given = {key: value if key in host else backend.arrays.upload(value) for key, value in inputs.items()}
        return {key: backend.arrays.download(value) for key, value in backend.runner(name)(given).items()}

    expected = run(torch_backend)
    given = run(onnx_backend)
    tolerance = RESIZE_RELATIVE if name == "sam2_resize" else FLOAT32_RELATIVE
    assert given.keys() == expected.keys()
    for output in expected:
        assert_close(given[output], expected[output], tolerance)


def test_the_cases_cover_every_network(tiny_bundle: Bundle) -> None:
    """A network that is added to the contract needs cases here."""
    assert {name for name, _ in CASES} == set(network_specs(tiny_bundle.model))


def test_the_standard_graphs_hold_standard_operators_only(tiny_bundle: Bundle) -> None:
    """TensorRT knows no operators of ONNX Runtime, and no antialiased Resize."""
    for name in tiny_bundle.networks:
        model = onnx.load(tiny_bundle.graph_file(name, "standard"), load_external_data=False)
        assert {node.domain for node in model.graph.node} == {""}, name
        attributes = [attribute for node in model.graph.node for attribute in node.attribute]
        assert not [found for found in attributes if found.name == "antialias" and found.i]


def test_a_layer_norm_is_one_operator(tiny_bundle: Bundle) -> None:
    """Taken apart it would run in half precision: two per block, one per q and k, and none left over."""
    model = onnx.load(tiny_bundle.graph_file("pi3_decoder", "standard"), load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("LayerNormalization") == 4 * 4
    assert "ReduceMean" not in kinds


def test_attention_is_fused_for_onnx_runtime(tiny_bundle: Bundle) -> None:
    """One MultiHeadAttention for each of the decoder's four blocks, and no product of scores."""
    model = onnx.load(tiny_bundle.graph_file("pi3_decoder", "onnxruntime"), load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MultiHeadAttention") == 4
    assert "Softmax" not in kinds


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_of_the_exporting_machine_is_in_a_graph(tiny_bundle: Bundle, target: Any) -> None:
    """The exporter notes stack traces with file names; they are taken out."""
    for name in tiny_bundle.networks:
        content = tiny_bundle.graph_file(name, target).read_bytes()
        assert b".py" not in content, name


def test_nodes_are_named_by_their_module(tiny_bundle: Bundle) -> None:
    """A profile of an engine can be read by layer."""
    model = onnx.load(tiny_bundle.graph_file("dino", "standard"), load_external_data=False)
    assert any(node.name.startswith("dino.blocks.1.attn") for node in model.graph.node)


SHARP = 10.0
"""Gain of attention weights: a token then reads one memory or another as rounding decides."""

HALF: list[tuple[NetworkName, dict[str, Any]]] = [
    ("pi3_decoder", {"precision": "fp16", "head_precision": "fp16"}),
    ("dino", {"precision": "bf16"}),
    ("memory_attention", {"precision": "fp16", "opset": 23}),
    ("gmos_s", {"precision": "bf16", "head_precision": "fp16", "variant": "gmos-s"}),
    # Rounding to half makes two of its queries change places.
    ("proposer", {"precision": "fp16", "head_precision": "fp16"}),
]
"""Not every network in every precision: capturing one takes seconds."""


@pytest.mark.parametrize(
    ("name", "plan"),
    HALF,
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_half_precision_passes_the_gate(
    name: NetworkName,
    plan: dict[str, Any],
    half_network: Callable[..., tuple[BundleNetwork, Path]],
    tiny_networks: ReferenceNetworks,
) -> None:
    """In the graph itself: weights and tensors between networks are half as long."""
    found, root = half_network(name, **plan)
    assert found.gate["passed"]
    assert found.gate["compared"] == ("fp32 twin" if plan["precision"] == "bf16" else "graph")
    # Networks are converted, and layer scales folded into them, on copies.
    assert {parameter.dtype for parameter in tiny_networks.pi3.parameters()} == {torch.float32}
    assert "ls1.gamma" in tiny_networks.pi3.decoder[0].state_dict()
    between = {"fp16": "float16", "bf16": "bfloat16"}[plan["precision"]]
    assert between in {tensor.dtype for tensor in (*found.inputs, *found.outputs)}
    assert (root / f"{name}.weights").stat().st_size < 3 * found.parameters
    if plan["precision"] == "fp16":
        standard = onnx.load(root / found.graphs["standard"].file, load_external_data=False)
        check_fp16_attention(standard, fused=plan.get("opset") == 23)


def test_a_network_that_amplifies_rounding(
    tiny_networks: ReferenceNetworks,
    exporter: Callable[..., NetworkExporter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sharp attention is off in fp16, in PyTorch as in the export: the gate knows whose fault it is."""
    monkeypatch.setitem(LIMITS, "fp16", replace(LIMITS["fp16"], relative=1e-5))
    networks = replace(tiny_networks, sam2=copy.deepcopy(tiny_networks.sam2))
    for layer in networks.sam2.memory_attention.layers:
        layer.cross_attn_image.q_proj.weight.data.mul_(SHARP)
        layer.cross_attn_image.out_proj.weight.data.mul_(SHARP)
    found = exporter(networks=networks, precision="fp16").export("memory_attention").gate
    assert found["passed"]
    assert max(each["relative"] for each in found["differences"]) > 1e-5
    assert {each["target"] for each in found["own_errors"]} == {"reference"}


def check_fp16_attention(model: onnx.ModelProto, *, fused: bool) -> None:
    """TensorRT accumulates in fp16 unless q, k, the shares and v are cast to float32 before their products."""
    maker = {output: node for node in model.graph.node for output in node.output}
    reader = {name: node for node in model.graph.node for name in node.input}
    kinds = [node.op_type for node in model.graph.node]
    if fused:
        attentions = [node for node in model.graph.node if node.op_type == "Attention"]
        assert attentions
        assert "Softmax" not in kinds
        assert {maker[name].op_type for node in attentions for name in node.input} == {"Cast"}
        return
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert softmaxes
    for softmax in softmaxes:
        back = maker[softmax.input[0]]
        scores = maker[back.input[0]]
        assert (back.op_type, scores.op_type) == ("Cast", "MatMul")
        assert [maker[name].op_type for name in scores.input] == ["Cast", "Cast"]
        assert [maker[maker[name].input[0]].op_type for name in scores.input] == ["Mul", "Transpose"]
        shares = reader[softmax.output[0]]
        product = reader[shares.output[0]]
        assert (shares.op_type, product.op_type) == ("Cast", "MatMul")
        assert [maker[name].op_type for name in product.input] == ["Cast", "Cast"]


def test_the_map_of_gmos_s_passes_the_gate(exporter: Callable[..., NetworkExporter]) -> None:
    """The other variant's own network without weights."""
    assert exporter(variant="gmos-s").export("foreground_map").gate["passed"]
