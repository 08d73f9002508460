"""What kind of work a layer does, from the names that ONNX Runtime and TensorRT give it, and sums by kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...runtime.layer_times import LayerClock, LayerTime, LayerTimes

SLOWEST = 10

OTHER = "other"

GENERATED, GENERATED_KIND = "kgen", "elementwise"
"""TensorRT's type of the kernels that it generates: what was fused is in their names, and never a product."""

OPERATORS: Mapping[str, tuple[str, ...]] = {
    "matrix product": ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulNBits", "Einsum"),
    "attention": ("Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention"),
    "convolution": ("Conv", "ConvTranspose", "FusedConv", "NhwcConv", "NhwcFusedConv", "Col2Im"),
    "normalisation": (
        "LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "GroupNorm",
        "GroupNormalization", "InstanceNormalization", "BatchNormalization", "LpNormalization",
    ),
    "softmax": ("Softmax", "LogSoftmax"),
    "resize": ("Resize", "Upsample", "GridSample"),
    "pooling": ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
    "reduction": (
        "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ArgMax", "ArgMin", "TopK",
        "CumSum",
    ),
    "data movement": (
        "Transpose", "Reshape", "Concat", "Slice", "Split", "Gather", "GatherElements", "GatherND", "Scatter",
        "ScatterElements", "ScatterND", "Expand", "Tile", "Pad", "Squeeze", "Unsqueeze", "Flatten", "Identity",
        "Cast", "DepthToSpace", "SpaceToDepth", "MemcpyToHost", "MemcpyFromHost", "ReorderInput", "ReorderOutput",
        "Shape", "ConstantOfShape", "Range", "OneHot", "NonZero",
    ),
    "quantisation": (
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv",
        "QLinearMatMul",
    ),
    "elementwise": (
        "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Neg", "Abs", "Sin", "Cos", "Erf",
        "Tanh", "Sigmoid", "Relu", "LeakyRelu", "PRelu", "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "HardSigmoid",
        "Softplus", "Clip", "Min", "Max", "Sum", "Where", "Not", "And", "Or", "Xor", "Equal", "Greater",
        "GreaterOrEqual", "Less", "LessOrEqual", "Floor", "Ceil", "Round", "Mod", "Sign", "IsNaN",
    ),
}  # fmt: skip
"""Operators of ONNX and of ONNX Runtime by kind."""

KIND_OF_OPERATOR = {operator: kind for kind, operators in OPERATORS.items() for operator in operators}

NAME_PATTERNS: Sequence[tuple[str, str]] = (
    (r"mha|fmha|attention", "attention"),
    (r"conv|deconv|implicit_gemm", "convolution"),
    (r"gemm|matmul|matrix|fc(?![a-z])|fullyconnected", "matrix product"),
    (r"layernorm|layer_norm|instancenorm|groupnorm|normalization|mean.*sqrt|meansub", "normalisation"),
    (r"softmax|maxsubexpsum", "softmax"),
    (r"resize|upsample|gridsample", "resize"),
    (r"pool", "pooling"),
    (r"reformat|tran(s|_)|shuffle|reshape|copy|concat|slice|gather|scatter|move|mem(cpy|set)|cast", "data movement"),
    (r"reduce|argmax|topk|cumsum", "reduction"),
    (r"pointwise|elementwise|activation|add|mul|sub|div|gelu|erf|sigmoid|relu|tanh|sel|clip", "elementwise"),
)  # fmt: skip
"""Of layers in engines, first match first: their names are made of what was fused into them."""


def kind_of(layer: LayerTime) -> str:
    """The kind of a layer, by its operator if that is one of ONNX's, else by words in its type and name."""
    known = KIND_OF_OPERATOR.get(layer.operator)
    if known is not None:
        return known
    for text in (layer.operator, layer.name):
        for pattern, kind in NAME_PATTERNS:
            if re.search(pattern, text, re.IGNORECASE):
                return kind
    return GENERATED_KIND if layer.operator == GENERATED else OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTime:
    """All layers of a kind and provider: mean milliseconds of a call and their share of all layers."""

    kind: str
    provider: str
    ms: float
    share: float
    layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowLayer:
    """One of the slowest layers; as `LayerTime`, with its kind and share of all layers."""

    name: str
    operator: str
    kind: str
    provider: str
    ms: float
    share: float
    calls: float
    moved_bytes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLayers:
    """Where the time of a network goes on a side: mean milliseconds of all layers, by kind, and the slowest."""

    network: str
    lengths: Mapping[str, int]
    side: str
    clock: LayerClock
    iterations: int
    total_ms: float
    kinds: tuple[KindTime, ...]
    slowest: tuple[SlowLayer, ...]

    @property
    def title(self) -> str:
        """The network with its lengths."""
        return f"{self.network} {lengths_text(self.lengths)}"


def lengths_text(lengths: Mapping[str, int]) -> str:
    """Lengths by axis letter as `B=1 h=7 w=12`."""
    return " ".join(f"{axis}={length}" for axis, length in lengths.items())


def network_layers(network: str, lengths: Mapping[str, int], side: str, times: LayerTimes) -> NetworkLayers:
    """Group layers by kind and provider, the longest first, and pick the slowest."""
    total = sum(layer.ms for layer in times.layers)
    groups: dict[tuple[str, str], list[LayerTime]] = {}
    for layer in times.layers:
        groups.setdefault((kind_of(layer), layer.provider), []).append(layer)

    def share(ms: float) -> float:
        return ms / total if total else 0.0

    kinds = [
        KindTime(kind=kind, provider=provider, ms=ms, share=share(ms), layers=len(layers))
        for (kind, provider), layers in groups.items()
        for ms in [sum(layer.ms for layer in layers)]
    ]
    return NetworkLayers(
        network=network,
        lengths=dict(lengths),
        side=side,
        clock=times.clock,
        iterations=times.iterations,
        total_ms=total,
        kinds=tuple(sorted(kinds, key=lambda entry: -entry.ms)),
        slowest=tuple(
            SlowLayer(
                name=layer.name,
                operator=layer.operator,
                kind=kind_of(layer),
                provider=layer.provider,
                ms=layer.ms,
                share=share(layer.ms),
                calls=layer.calls,
                moved_bytes=layer.moved_bytes,
            )
            for layer in sorted(times.layers, key=lambda layer: -layer.ms)[:SLOWEST]
        ),
    )
