"""Layers of SAM2's tracker in a form that a graph can hold, on the weights of the `sam2` package's own.

The package rotates with complex numbers, norms channels with five operators and calls fused attention
directly. Here rotation is real, a channel norm is one LayerNorm, and all attention goes through
`ScaledDotProduct`, which an export may exchange. Only the projections before a rotation are copies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from sam2.modeling.memory_attention import MemoryAttentionLayer
from sam2.modeling.sam.transformer import Attention, RoPEAttention
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn

from ..attention import RopeTable, ScaledDotProduct, join_heads, split_heads


class Float32Tables(nn.Module):
    """A module whose buffers are float32 whatever precision its weights are converted to."""

    def add_table(self, name: str, values: Tensor) -> None:
        """Keep constant values under a name; they are not part of the state dict."""
        self.register_buffer(name, values.detach().float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Tables:
        tables = {name: table for name, table in self._buffers.items() if table is not None}
        super()._apply(fn, recurse)
        for name, table in tables.items():
            # The converted table only tells the device: its values may have been rounded.
            self._buffers[name] = table.to(fn(table).device)
        return self


class SharedChannelNorm(nn.LayerNorm):
    """The package's LayerNorm over the channels of (B, C, H, W), as one operator."""

    def __init__(self, source: LayerNorm2d) -> None:
        super().__init__(len(source.weight), eps=source.eps, device="meta")
        self.weight, self.bias = source.weight, source.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SharedAttention(nn.Module):
    """The package's attention with separate projections."""

    def __init__(self, source: Attention) -> None:
        super().__init__()
        self.heads = source.num_heads
        self.q_proj, self.k_proj, self.v_proj = source.q_proj, source.k_proj, source.v_proj
        self.out_proj = source.out_proj
        self.attend = ScaledDotProduct()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, Lq, C), (B, Lk, C) and (B, Lk, C) to (B, Lq, C)."""
        queries = split_heads(self.q_proj(q), self.heads)
        keys = split_heads(self.k_proj(k), self.heads)
        values = split_heads(self.v_proj(v), self.heads)
        return self.out_proj(join_heads(self.attend(queries, keys, values)))


def with_shared_layers(module: nn.Module) -> nn.Module:
    """The same module on the same parameters, with attention and channel norms exchanged for these."""
    if isinstance(module, RoPEAttention):
        raise TypeError("attention with RoPE needs its positions: use RotaryAttention")
    if isinstance(module, Attention):
        return SharedAttention(module)
    if isinstance(module, LayerNorm2d):
        return SharedChannelNorm(module)
    shared = copy.copy(module)
    shared._parameters = dict(module._parameters)
    shared._buffers = dict(module._buffers)
    shared._modules = {name: with_shared_layers(child) for name, child in module.named_children()}
    return shared


def axial_table(grid: int, *, head_dim: int, base: float) -> RopeTable:
    """The rotation of the tokens of a square grid, (grid * grid, D/2).

    The first half of a head's D/2 pairs of channels turns with the column, the second with the row;
    pair i of a half turns by position * base^(-4i/D) (published SAM2 code).
    """
    exponents = torch.arange(0, head_dim, 4).float() / head_dim
    frequencies = 1.0 / base**exponents
    positions = torch.arange(grid).float()
    rows, columns = positions.repeat_interleave(grid), positions.repeat(grid)
    angles = torch.cat((columns.outer(frequencies), rows.outer(frequencies)), dim=1)
    return RopeTable(cos=angles.cos(), sin=angles.sin())


def rotate_halves(x: Tensor, table: RopeTable) -> Tensor:
    """Rotate queries or keys (..., L, D), pair i being channels i and i + D/2.

    Computed in float32, returned in x's dtype.
    """
    first, second = x.float().chunk(2, dim=-1)
    turned = (first * table.cos - second * table.sin, first * table.sin + second * table.cos)
    return torch.cat(turned, dim=-1).to(x.dtype)


def pairs_as_halves(source: nn.Linear, heads: int) -> nn.Linear:
    """A copy of a projection whose heads have the first channels of all pairs, then the second ones.

    SAM2's pairs are neighbours. Queries and keys in the same other order have the same products, and
    rotating halves moves memory in long runs (4 times faster on a CPU).
    """
    order = torch.arange(source.out_features, device=source.weight.device)
    order = order.view(heads, -1, 2).transpose(1, 2).flatten()
    copied = nn.Linear(source.in_features, source.out_features, device="meta")
    copied.weight = nn.Parameter(source.weight.detach()[order], requires_grad=False)
    copied.bias = nn.Parameter(source.bias.detach()[order], requires_grad=False)
    return copied


class RotaryAttention(nn.Module):
    """The package's attention with RoPE: queries of a frame, keys of the frame or of memories.

    `values_last` projects the values after they are mixed instead of before: see `mix_narrow_values`.
    """

    def __init__(self, source: RoPEAttention) -> None:
        super().__init__()
        self.heads = source.num_heads
        self.q_proj = pairs_as_halves(source.q_proj, self.heads)
        self.k_proj = pairs_as_halves(source.k_proj, self.heads)
        self.v_proj, self.out_proj = source.v_proj, source.out_proj
        self.attend = ScaledDotProduct()
        self.values_last = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, q_table: RopeTable, k_table: RopeTable) -> Tensor:
        """Attend; queries with a batch of 1 serve all of the batch.

        Args:
            q: (B or 1, Lq, C).
            k: (B, Lk, C').
            v: (B, Lk, C').
            q_table: (Lq, D/2).
            k_table: (Lk, D/2).

        Returns:
            (B, Lq, C).
        """
        queries = rotate_halves(split_heads(self.q_proj(q), self.heads), q_table)
        keys = rotate_halves(split_heads(self.k_proj(k), self.heads), k_table)
        queries = queries.expand(keys.shape[0], -1, -1, -1)
        if self.values_last:
            return self.out_proj(self.v_proj(join_heads(self.attend(queries, keys, v[:, None]))))
        values = split_heads(self.v_proj(v), self.heads)
        return self.out_proj(join_heads(self.attend(queries, keys, values)))


def mix_narrow_values(network: nn.Module) -> None:
    """Let memory attention mix memories in their own few channels and project the mixture, in place.

    The weights of a query sum to 1, so the result is the same, with 3/8 fewer products at SAM2's sizes
    (64 of 256 channels). It pays where the attention kernel takes values narrower than its keys, as ONNX
    Runtime's does (1.7 times faster on a CPU); PyTorch's fused kernels do not.
    """
    for module in network.modules():
        if isinstance(module, RotaryAttention) and module.heads == 1:
            module.values_last = module.v_proj.in_features < module.v_proj.out_features


class MemoryLayer(nn.Module):
    """One layer of memory attention: the frame looks at itself, then at an object's memories."""

    def __init__(self, source: MemoryAttentionLayer) -> None:
        super().__init__()
        self.self_attention = RotaryAttention(source.self_attn)
        self.cross_attention = RotaryAttention(source.cross_attn_image)
        self.norm1, self.norm2, self.norm3 = source.norm1, source.norm2, source.norm3
        self.linear1, self.linear2 = source.linear1, source.linear2
        self.activation = source.activation

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, table: RopeTable, key_table: RopeTable
    ) -> Tensor:
        """Attend to the frame and to the memories.

        Args:
            x: (O, hw, C) tokens of the frame, or (1, hw, C) where they are the same for all objects.
            keys: (O, L, M) tokens of memories and pointers with their positions.
            values: (O, L, M), the same without.
            table: rotation of the frame's tokens.
            key_table: rotation of the keys.

        Returns:
            (O, hw, C).
        """
        normed = self.norm1(x)
        x = x + self.self_attention(normed, normed, normed, table, table)
        x = x + self.cross_attention(self.norm2(x), keys, values, table, key_table)
        return x + self.linear2(self.activation(self.linear1(self.norm3(x))))


def shared_axial_table(layers: Iterable[MemoryAttentionLayer], grid: int) -> RopeTable:
    """The one rotation that all attentions of these layers use.

    Raises:
        ValueError: they use different ones.
    """
    kinds = {
        (attention.internal_dim // attention.num_heads, attention.compute_cis.keywords["theta"])
        for layer in layers
        for attention in (layer.self_attn, layer.cross_attn_image)
    }
    if len(kinds) != 1:
        raise ValueError(f"memory attention with (head width, RoPE base) {sorted(kinds)}, expected one pair")
    ((head_dim, base),) = kinds
    return axial_table(grid, head_dim=head_dim, base=base)
