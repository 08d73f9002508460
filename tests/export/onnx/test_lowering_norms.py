"""Norms over the channels of maps, as means over axis 1 where ONNX Runtime runs them in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import parser

from gmos_deploy.export.onnx.lowering_norms import lower_channel_norms
from gmos_deploy.runtime.onnx.host_graph import HostGraph

CHANNELS = 4


def model(
    *, dtype: str = "float", bias: bool = True, back: str = "0, 3, 1, 2", also: bool = False
) -> ir.Model:
    """Channels to the end, norm, and back; `also` gives the norm's own result out as well."""
    more = f", {dtype}[B,3,5,{CHANNELS}] m" if also else ""
    text = f"""<ir_version: 10, opset_import: ["": 20]>
    norm ({dtype}[B,{CHANNELS},3,5] x, {dtype}[{CHANNELS}] w{f", {dtype}[{CHANNELS}] b" * bias})
        => ({dtype}[B,I,J,K] y{more}) {{
        t = Transpose <perm = [0, 2, 3, 1]> (x)
        m = LayerNormalization <axis = -1, epsilon = 1e-6> (t, w{", b" * bias})
        y = Transpose <perm = [{back}]> (m)
    }}"""
    return ir.from_proto(onnx.shape_inference.infer_shapes(parser.parse_model(text)))


def operators(made: ir.Model) -> set[str]:
    return {node.op_type for node in made.graph}


@pytest.mark.parametrize("also", [False, True], ids=["alone", "read elsewhere too"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_rewritten_form_computes_the_same(bias: bool, also: bool, tmp_path: Path) -> None:
    """Large means beside small differences, with and without a bias."""
    made = model(bias=bias, also=also)
    lower_channel_norms(made, "onnxruntime")
    assert ("LayerNormalization" in operators(made)) == also
    made.graph[0].name = "first"
    ir.save(made, tmp_path / "norm.onnx")
    onnx.checker.check_model(str(tmp_path / "norm.onnx"))
    generator = torch.Generator().manual_seed(0)
    given = {"x": 50 + torch.randn(2, CHANNELS, 3, 5, generator=generator)} | {
        name: torch.randn(CHANNELS, generator=generator) for name in ("w", "b")[: 1 + bias]
    }
    expected = torch.nn.functional.layer_norm(
        given["x"].permute(0, 2, 3, 1), (CHANNELS,), given["w"], given.get("b"), 1e-6
    ).permute(0, 3, 1, 2)
    session = HostGraph(tmp_path / "norm.onnx")
    found = session.run({name: tensor.numpy() for name, tensor in given.items()})["y"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("made", "target"),
    [
        (model(), "standard"),
        (model(dtype="float16"), "onnxruntime"),
        (model(back="0, 1, 3, 2"), "onnxruntime"),
    ],
    ids=["for TensorRT", "in half precision", "not moved back"],
)
def test_other_norms_stay(made: ir.Model, target: str) -> None:
    """The rewriting is for float32 on ONNX Runtime only."""
    lower_channel_norms(made, target)
    assert operators(made) == {"Transpose", "LayerNormalization"}
