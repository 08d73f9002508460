"""Attention of half-precision networks is fused in real plans and sums in float32."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import onnx
import pytest

from gmos_deploy.export.engines.options import BuildOptions
from gmos_deploy.export.engines.plan import BuiltPlan, build_plan
from gmos_deploy.export.engines.progress import BuildPhases
from gmos_deploy.export.engines.shapes import engine_profile
from gmos_deploy.runtime.bundle.manifest import Bundle, BundleNetwork
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.tensorrt.library import load_tensorrt

pytest.importorskip("tensorrt_rtx")

OPTIONS = BuildOptions(targets=("sm86", "sm120"))
HALF = {"precision": "fp16", "head_precision": "fp16"}


def engine(found: BundleNetwork, root: Path) -> BuiltPlan:
    bundle: Any = SimpleNamespace(
        private_graph=lambda name, target: nullcontext(root / found.graphs[target].file)
    )
    return build_plan(
        load_tensorrt("tensorrt-rtx"),
        cast(Bundle, bundle),
        found,
        profiles=[engine_profile(found, ranges) for ranges in found.profiles],
        options=OPTIONS,
        phases=BuildPhases(lambda *_: None),
    )


CASES: list[tuple[NetworkName, dict[str, Any], int]] = [
    # Heads of 32 channels.
    ("dino", {"precision": "bf16", "preset": "small"}, 4),
    # A head of 128 channels. Its self-attention is one head over 256 tokens of one frame, which is left alone.
    ("memory_attention", {"precision": "fp16", "preset": "small"}, 1),
    # With the decoder's blocks that see one frame: three of its four, and two of DINOv2.
    ("dino", {"precision": "fp16", "local_layers": 1}, 5),
    ("pi3_decoder", {"precision": "fp16", "local_layers": 1}, 1),
]
"""Beside the tiny networks of test_half_engines.py, with heads of 16 and 64 channels."""


@pytest.mark.parametrize(
    ("name", "plan", "attentions"),
    CASES,
    ids=[f"{name}-{'-'.join(map(str, plan.values()))}" for name, plan, _ in CASES],
)
def test_attention_is_fused_and_sums_in_float32(
    name: NetworkName,
    plan: dict[str, Any],
    attentions: int,
    half_network: Callable[..., tuple[BundleNetwork, Path]],
) -> None:
    """Every one of the network; nothing is said to be lost."""
    report = engine(*half_network(name, **plan)).attention
    assert (report.expected, report.fused) == (attentions, attentions)
    assert report.sums == ("Ampere_hmma_fp32" if plan["precision"] == "fp16" else "Ampere_hmma_bf16",)
    assert report.lost is None


def rewired(model: onnx.ModelProto, skip: Callable[[onnx.NodeProto], bool]) -> onnx.ModelProto:
    """The model without the nodes that `skip` names: what read them reads their input."""
    renamed = {node.output[0]: node.input[0] for node in model.graph.node if skip(node)}
    kept = [node for node in model.graph.node if not skip(node)]
    for node in kept:
        for i in range(len(node.input)):
            while node.input[i] in renamed:
                node.input[i] = renamed[node.input[i]]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def test_products_in_float16_are_noticed(
    half_network: Callable[..., tuple[BundleNetwork, Path]], tmp_path: Path
) -> None:
    """The same network without the casts around its products: TensorRT then sums in float16."""
    found, root = half_network("pi3_decoder", **HALF)
    name = found.graphs["standard"].file
    model = onnx.load(root / name, load_external_data=False)
    plain = rewired(model, lambda node: node.op_type == "Cast" and "/Attend" in node.name)
    onnx.save(plain, tmp_path / name)
    for weights in root.glob("*.weights"):
        shutil.copy(weights, tmp_path)
    lost = engine(found, tmp_path).attention.lost
    assert lost == "attention sums in float16, which is inaccurate over long sequences"


def test_attention_that_is_not_fused_is_noticed(
    half_network: Callable[..., tuple[BundleNetwork, Path]], tmp_path: Path
) -> None:
    """The same network with the scale after the cast, a form that TensorRT-RTX 1.7 does not recognise."""
    found, root = half_network("pi3_decoder", **HALF)
    name = found.graphs["standard"].file
    model = onnx.load(root / name, load_external_data=False)
    maker = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        source = maker.get(node.input[0]) if node.op_type == "Cast" and "/Attend" in node.name else None
        if source is not None and source.op_type == "Mul" and "/Attend" in source.name:
            # q -> Mul -> Cast becomes q -> Cast -> Mul, with the scale as float32.
            scale = onnx.numpy_helper.to_array(maker[source.input[1]].attribute[0].t).astype("float32")
            maker[source.input[1]].attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(scale))
            q, product, cast_output = source.input[0], source.output[0], node.output[0]
            node.input[0], node.output[0] = q, product + "_cast"
            source.input[0], source.output[0] = product + "_cast", cast_output
    ordered = onnx.helper.make_graph(
        topological(list(model.graph.node)),
        model.graph.name,
        list(model.graph.input),
        list(model.graph.output),
        list(model.graph.initializer),
    )
    onnx.save(
        onnx.helper.make_model(ordered, opset_imports=list(model.opset_import), ir_version=model.ir_version),
        tmp_path / name,
    )
    for weights in root.glob("*.weights"):
        shutil.copy(weights, tmp_path)
    report = engine(found, tmp_path).attention
    assert report.lost == "none of its 4 attentions is fused: it is slow and needs much memory"


def topological(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Each node after those that it reads."""
    made = {output for node in nodes for output in node.output}
    done: set[str] = set()
    found: list[onnx.NodeProto] = []
    while nodes:
        ready = [node for node in nodes if all(name not in made or name in done for name in node.input)]
        found += ready
        done |= {output for node in ready for output in node.output}
        nodes = [node for node in nodes if node not in ready]
    return found
