"""Long sums of fp16 products are in float32: in the network that is built, and in real plans."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gmos_deploy.export.engines.sums import HEAD_SUM, LONG_SUM, least_pinned, pin_sums
from gmos_deploy.runtime.tensorrt.library import TensorRT, load_tensorrt

pytest.importorskip("tensorrt_rtx")

TOKENS = 512


def chain(widths: Sequence[int], *, dtype: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    """Linear layers one after the other; the first one's output is also added to itself."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    draw = np.random.default_rng(3)
    nodes, weights, last = [], [], "x"
    for i, (terms, width) in enumerate(pairwise(widths)):
        weights.append(
            numpy_helper.from_array((draw.standard_normal((terms, width)) / 64).astype(kind), f"w{i}")
        )
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Add", [f"m{i}", f"m{i}"], [f"y{i}"]))
        last = f"y{i}"
    shape = ["N", TOKENS, widths[0]]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(last, dtype, ["N", TOKENS, widths[-1]])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def library() -> TensorRT:
    return load_tensorrt("tensorrt-rtx")


@pytest.fixture
def build(library: TensorRT) -> Callable[..., tuple[int, bytes]]:
    """How many products were pinned, and the plan."""

    def call(model: onnx.ModelProto, least: int | None) -> tuple[int, bytes]:
        module = library.module
        builder = module.Builder(library.logger)
        network = library.create_network(builder)
        parser = module.OnnxParser(network, library.logger)
        assert parser.parse(model.SerializeToString())
        pinned = 0 if least is None else pin_sums(library, network, least)
        config = library.create_config(builder)
        library.set_targets(config, ("sm86",))
        profile = builder.create_optimization_profile()
        shape = (TOKENS, network.get_input(0).shape[-1])
        profile.set_shape("x", (1, *shape), (2, *shape), (2, *shape))
        config.add_optimization_profile(profile)
        return pinned, bytes(builder.build_serialized_network(network, config))

    return call


def accumulators(plan: bytes) -> list[int]:
    """Of the products in a plan; 0 is float16, 2 is float32."""
    return sorted(int(found) for found in re.findall(rb"fully_connected=.*?accumulation_type=(\d)", plan))


def test_long_sums_are_in_float32_and_weights_stay_in_half(build: Callable[..., Any]) -> None:
    """The short product is left to the library, and the plan is not larger."""
    model = chain((LONG_SUM, 256, 512))
    none, plain = build(model, None)
    some, pinned = build(model, LONG_SUM)
    everything, all_pinned = build(model, HEAD_SUM)
    assert (none, some, everything) == (0, 1, 2)
    assert accumulators(plain) == [0, 0]
    assert accumulators(pinned) == [0, 2]
    assert accumulators(all_pinned) == [2, 2]
    assert len(all_pinned) < 1.1 * len(plain)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.BFLOAT16])
def test_other_precisions_are_left_alone(library: TensorRT, dtype: int) -> None:
    """They sum in float32 anyway."""
    network = library.create_network(library.module.Builder(library.logger))
    parser = library.module.OnnxParser(network, library.logger)
    assert parser.parse(chain((LONG_SUM, 64), dtype=dtype).SerializeToString())
    layers = network.num_layers
    assert pin_sums(library, network, 1) == 0
    assert network.num_layers == layers


def test_all_linear_layers_of_the_heads_are_pinned() -> None:
    """Decisions hang on small differences there."""
    assert least_pinned("proposer") == least_pinned("gmos_s") == HEAD_SUM
    assert least_pinned("pi3_decoder") == LONG_SUM
