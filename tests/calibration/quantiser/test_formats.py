"""Rounding to eight bits, and scales in float16."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gmos_deploy.calibration.quantiser.formats import FORMATS, LEAST_SCALE

VALUES = np.random.default_rng(1).standard_normal(4000).astype(np.float16) * np.float16(3)
ONNX_TYPES = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_emulation_is_what_onnx_runtime_computes(precision: str) -> None:
    """Through a pair of QuantizeLinear and DequantizeLinear as bundles have it there, clipped values included."""
    form = FORMATS[precision]
    scale = form.scale(4.0)
    # Whole numbers are rounded in float32.
    kind = TensorProto.FLOAT if precision == "int8" else TensorProto.FLOAT16
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["w"], to=kind),
            helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N"])],
        [helper.make_tensor_value_info("y", kind, ["N"])],
        [
            helper.make_tensor("s", kind, [], [float(scale)]),
            helper.make_tensor("z", ONNX_TYPES[precision], [], [0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"x": VALUES})
    emulated = form.emulated(VALUES, scale)
    # int8: -128 is one step further than the emulation goes. Both: the product is rounded to float16.
    step = float(scale) if precision == "int8" else 0.0
    np.testing.assert_allclose(given.astype(np.float32), emulated, rtol=1e-3, atol=step * 1.01)
    inside = np.abs(VALUES) <= 3.9
    np.testing.assert_allclose(given[inside].astype(np.float32), emulated[inside], rtol=1e-3, atol=1e-6)


@given(st.floats(1e-4, 6e4), st.sampled_from(["int8", "fp8"]))
def test_a_scale_clips_nothing_within_its_threshold(threshold: float, precision: str) -> None:
    """float16 scales are rounded up, by at most two units in the last place."""
    form = FORMATS[precision]
    scale = form.scale(threshold)
    assert scale.dtype == np.float16
    exact = max(threshold / form.largest, LEAST_SCALE)
    assert exact <= float(scale) <= exact * (1 + 2**-9) + 2**-23


def test_weights_of_a_nearly_dead_channel_are_rounded_to_zero_and_not_to_noise() -> None:
    """A scale of zero would give infinities."""
    form = FORMATS["int8"]
    scale = form.scale(np.array([1e-9, 0.0, 1.0]))
    assert (scale > 0).all()
    assert form.rounded(np.float32([1e-9, 0.0, 1.0]), scale).tolist() == [0, 0, 127]


def test_fp8_keeps_relative_precision_over_its_range() -> None:
    """Three bits of mantissa: at most a sixteenth off, from the largest value down to a 28,000th of it."""
    form = FORMATS["fp8"]
    values = np.geomspace(4.0 / 28_000, 4.0, 500).astype(np.float32)
    back = form.emulated(values, form.scale(4.0))
    assert (np.abs(back - values) <= values / 16 * 1.001).all()
    assert form.rounded(values, form.scale(4.0)).dtype == ml_dtypes.float8_e4m3fn
