"""Attention as one opaque operator while a network is captured, so that each target gets its own form of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

DOMAIN = "gmos_deploy"
"""ONNX domain of the operator; no file that is kept contains it."""

ATTEND = "Attend"
"""softmax(q k^T / sqrt(D)) v on (B, heads, L, D)."""


def _captured(q: Tensor, k: Tensor, v: Tensor, *options: object, **named: object) -> Tensor:
    if any(options) or any(named.values()):
        raise ValueError(f"attention with options cannot be exported: {options} {named}")
    shape = (*q.shape[:-1], v.shape[-1])
    return torch.onnx.ops.symbolic(f"{DOMAIN}::{ATTEND}", (q, k, v), dtype=q.dtype, shape=shape, version=1)


@contextmanager
def opaque_attention() -> Iterator[None]:
    """Within the block every `scaled_dot_product_attention` is captured as the operator above.

    The modules of the `sam2` package call the function through `torch.nn.functional`, so that is
    where it has to be replaced; it is put back whatever happens. Nothing can be computed within the
    block: the operator has no values.
    """
    original = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _captured  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original
