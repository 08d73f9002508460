"""Long sums of half-precision products: in float32, whatever the library would choose."""

from __future__ import annotations

from typing import Any

from ...runtime.contract import HEADS, NetworkName
from ...runtime.tensorrt.library import TensorRT

LONG_SUM = 4096
"""Terms from which on a sum in float16 (11 bits) loses what its last terms say: the second layers of the MLPs of DINO,
Pi3 and Hiera's last stage."""

HEAD_SUM = 64
"""In the heads, where decisions hang on small differences and products are few: every linear layer."""


def least_pinned(name: NetworkName) -> int:
    """From how many terms on a network's sums are pinned."""
    return HEAD_SUM if name in HEADS else LONG_SUM


def pin_sums(library: TensorRT, network: Any, least: int) -> int:  # noqa: ANN401 - the library is untyped
    """Have fp16 matrix products over `least` or more terms summed in float32; how many there are.

    Their inputs are cast to float32 and their output back, which both builders take as: factors in half, sums in
    float32 (TensorRT-RTX 1.7.1: `accumulation_type=2` in the plan instead of 0, weights stay in half;
    Torch-TensorRT's `use_fp32_acc` is the same). Left to themselves they may sum in float16, at twice the rate on
    GeForce cards. bf16 products always sum in float32; products of quantised factors are whole-number kernels and stay.
    """
    module = library.module
    half, layers = module.DataType.HALF, [network.get_layer(i) for i in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    readers: dict[str, list[tuple[Any, int]]] = {}
    for layer in layers:
        for i in range(layer.num_inputs):
            tensor = layer.get_input(i)
            if tensor is not None:
                readers.setdefault(tensor.name, []).append((layer, i))
    pinned = 0
    for layer in layers:
        if layer.type != module.LayerType.MATRIX_MULTIPLY:
            continue
        factors = [layer.get_input(i) for i in range(2)]
        quantised = {module.LayerType.DEQUANTIZE, getattr(module.LayerType, "DYNAMIC_QUANTIZE", None)}
        if any(factor.dtype != half or _maker_type(makers, factor) in quantised for factor in factors):
            continue
        layer.__class__ = module.IMatrixMultiplyLayer
        terms = factors[0].shape[-2 if layer.op0 == module.MatrixOperation.TRANSPOSE else -1]
        if terms < least:
            continue
        for i, factor in enumerate(factors):
            layer.set_input(i, network.add_cast(factor, module.DataType.FLOAT).get_output(0))
        product = layer.get_output(0)
        back = network.add_cast(product, half).get_output(0)
        for reader, i in readers.get(product.name, ()):
            reader.set_input(i, back)
        pinned += 1
    return pinned


def _maker_type(makers: dict[str, Any], tensor: Any) -> Any:  # noqa: ANN401
    maker = makers.get(tensor.name)
    return None if maker is None else maker.type
