"""Whether attention is fused in a plan, and in which precision it sums, from the plan's own bytes."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.tensorrt.library import TensorRT

FUSED_HEAD_SIZES = (16, 32, 64, 72, 128, 256)
"""Channels of a head for which TensorRT has fused kernels; smaller ones stay two products and a softmax."""

SINGLE_HEAD_TOKENS = 2048
"""Up to so many tokens TensorRT-RTX 1.7 leaves a lone head of a lone batch entry unfused: it is small."""

FUSED_CALL = re.compile(rb"function=\{ name=_gemm_mha")
"""A call of a fused kernel in the execution list of a TensorRT-RTX 1.7 plan."""

FUSED_MARK = b"_gemm_mha"

TRAITS = re.compile(rb"Kernel_traits\w*<\s*fmha::(\w+)_traits,\s*fmha::(\w+)_traits")
"""The instructions of the two products: `Ampere_hmma_fp32` sums in float32, `Ampere_hmma_fp16` does not."""

WALK_LIMIT = 6
"""Layers between a product of scores and its softmax: casts, scales, shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionReport:
    """Fused attention in a plan.

    `expected` counts the half-precision attentions of the graph that TensorRT has a kernel for, `fused`
    the calls of such kernels per profile (None where a plan does not list its calls),
    `sums` the accumulators by product. `named` says whether plans of this library are known to have the kernels'
    names: where they are not, a name that is missing says nothing.
    """

    expected: int
    fused: int | None
    marked: bool
    sums: tuple[str, ...]
    named: bool

    @property
    def lost(self) -> str | None:
        """What is wrong with the attention of a half-precision engine, in words; None if nothing is."""
        if any("fp16" in found for found in self.sums):
            return "attention sums in float16, which is inaccurate over long sequences"
        if not self.expected or not (self.marked or self.named):
            return None
        if not self.marked:
            return f"none of its {self.expected} attentions is fused: it is slow and needs much memory"
        if self.fused is not None and self.fused < self.expected:
            return f"{self.expected - self.fused} of its {self.expected} attentions are not fused: it is slow"
        return None

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {"expected": self.expected, "fused": self.fused, "sums": list(self.sums), "lost": self.lost}


def attention_report(
    plan: bytes | memoryview | mmap.mmap, *, heads: Mapping[int, int], copies: int, named: bool
) -> AttentionReport:
    """Read a plan.

    Args:
        plan: its bytes.
        heads: half-precision attentions of the graph by head size (`half_attention_heads`).
        copies: how often the network is in the plan: once per profile; targets share the list of calls.
        named: whether plans of the library have their kernels' names: TensorRT-RTX 1.7's do; of TensorRT
            10 and 11 it is not known.
    """
    calls = len(FUSED_CALL.findall(plan))
    marked = re.search(FUSED_MARK, plan) is not None
    sums = {name.decode() for found in TRAITS.findall(plan) for name in found}
    expected = sum(count for size, count in heads.items() if size in FUSED_HEAD_SIZES)
    return AttentionReport(
        expected=expected,
        fused=calls // copies if calls or (named and not marked) else None,
        marked=marked,
        sums=tuple(sorted(sums)),
        named=named,
    )


def half_attention_heads(library: TensorRT, network: Any) -> dict[int, int]:  # noqa: ANN401
    """How many attentions of a parsed network are in half precision, by the channels of a head.

    Those that are left unfused for being small (`SINGLE_HEAD_TOKENS`) are not counted.
    """
    module = library.module
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    half = {module.DataType.HALF, getattr(module.DataType, "BF16", None)}
    found: dict[int, int] = {}
    for layer in layers:
        scores = layer.get_input(0) if layer.type == module.LayerType.SOFTMAX else None
        if scores is None or scores.dtype not in half or _lone(tuple(scores.shape)):
            continue
        maker: Any = layer
        for _ in range(WALK_LIMIT):
            maker = makers.get(maker.get_input(0).name)
            if maker is None or maker.type == module.LayerType.MATRIX_MULTIPLY:
                break
        if maker is not None and maker.type == module.LayerType.MATRIX_MULTIPLY:
            size = int(maker.get_input(0).shape[-1])
            found[size] = found.get(size, 0) + 1
    return found


def _lone(shape: tuple[int, ...]) -> bool:
    """Scores of one head of one batch entry over few tokens."""
    return all(length == 1 for length in shape[:-2]) and 0 < shape[-1] <= SINGLE_HEAD_TOKENS
