"""Transposed convolutions in bfloat16, which TensorRT-RTX 1.7 cannot build, in the form that it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import parser

from gmos_deploy.export.onnx.float32_twin import write_float32_twin
from gmos_deploy.export.onnx.lowering_upsampling import lower_upsampling
from gmos_deploy.runtime.onnx.host_graph import HostGraph

CHANNELS, OUTPUTS, SIDE = 6, 4, 2

BF16_ROUNDING = 2**-7
"""Weights are rounded to 8 bits on both sides; sums of six products are in float32."""


def model(*, dtype: str = "bfloat16", strides: str = "2, 2", bias: bool = True) -> ir.Model:
    """One transposed convolution with seeded weights."""
    text = f"""<ir_version: 10, opset_import: ["": 20]>
    up ({dtype}[B,{CHANNELS},3,5] x, {dtype}[{CHANNELS},{OUTPUTS},{SIDE},{SIDE}] w{f", {dtype}[{OUTPUTS}] b" * bias})
        => ({dtype}[B,{OUTPUTS},Y,X] y) {{
        y = ConvTranspose <strides = [{strides}], kernel_shape = [{SIDE}, {SIDE}]> (x, w{", b" * bias})
    }}"""
    made = ir.from_proto(onnx.shape_inference.infer_shapes(parser.parse_model(text)))
    made.graph[0].name = "up"
    return made


def operators(made: ir.Model) -> set[str]:
    return {node.op_type for node in made.graph}


@pytest.mark.parametrize("bias", [True, False])
def test_the_rewritten_form_computes_the_same(bias: bool, tmp_path: Path) -> None:
    """On odd sizes and a batch, with and without a bias."""
    made = model(bias=bias)
    lower_upsampling(made, "standard")
    assert "ConvTranspose" not in operators(made)
    ir.save(made, tmp_path / "up.onnx")
    onnx.checker.check_model(str(tmp_path / "up.onnx"))
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (2, CHANNELS, 3, 5), "w": (CHANNELS, OUTPUTS, SIDE, SIDE)} | (
        {"b": (OUTPUTS,)} if bias else {}
    )
    given = {
        name: torch.randn(shape, generator=generator).bfloat16().float() for name, shape in shapes.items()
    }
    expected = torch.nn.functional.conv_transpose2d(given["x"], given["w"], given.get("b"), stride=SIDE)
    session = HostGraph(write_float32_twin(tmp_path / "up.onnx", tmp_path))
    found = session.run({name: tensor.numpy() for name, tensor in given.items()})["y"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=BF16_ROUNDING, atol=BF16_ROUNDING)


@pytest.mark.parametrize(
    ("made", "target"),
    [
        (model(), "onnxruntime"),
        (model(dtype="float"), "standard"),
        (model(strides="1, 1"), "standard"),
    ],
    ids=["for ONNX Runtime", "in float32", "with overlapping outputs"],
)
def test_what_can_be_built_or_is_no_enlargement_stays(made: ir.Model, target: str) -> None:
    """The rewriting is for one builder's gap only."""
    lower_upsampling(made, target)
    assert operators(made) == {"ConvTranspose"}
