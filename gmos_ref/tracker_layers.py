"""Layers of SAM2's tracker in a form that a graph can hold, on the weights of the `sam2` package's own.

The package rotates with complex numbers, norms channels with five operators and calls fused attention
directly. Here rotation is real, a channel norm is one LayerNorm, and all attention goes through
`ScaledDotProduct`, which an export may exchange.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from sam2.modeling.memory_attention import MemoryAttentionLayer
from sam2.modeling.sam.transformer import Attention, RoPEAttention
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn

from .attention import ScaledDotProduct, join_heads, split_heads
from .rope import RopeTable


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
        raise TypeError("attention with RoPE needs its grid: use MemoryLayer")
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
    """The rotation of the tokens of a square grid in SAM2's layout, (grid * grid, D/2).

    Channels 2i and 2i + 1 form pair i. The first half of the pairs turns with the column, the second
    with the row; pair i of a half turns by position * base^(-4i/D) (published SAM2 code).
    """
    exponents = torch.arange(0, head_dim, 4).float() / head_dim
    frequencies = 1.0 / base**exponents
    positions = torch.arange(grid).float()
    rows, columns = positions.repeat_interleave(grid), positions.repeat(grid)
    angles = torch.cat((columns.outer(frequencies), rows.outer(frequencies)), dim=1)
    return RopeTable(cos=angles.cos(), sin=angles.sin())


def rotate_pairs(x: Tensor, table: RopeTable) -> Tensor:
    """Rotate queries or keys (..., L, D) of neighbouring pairs; in float32, returned in x's dtype."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = (even * table.cos - odd * table.sin, even * table.sin + odd * table.cos)
    return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)


class MemoryLayer(nn.Module):
    """One layer of memory attention: the frame looks at itself, then at an object's memories."""

    def __init__(self, source: MemoryAttentionLayer) -> None:
        super().__init__()
        self.self_attention = SharedAttention(source.self_attn)
        self.cross_attention = SharedAttention(source.cross_attn_image)
        self.norm1, self.norm2, self.norm3 = source.norm1, source.norm2, source.norm3
        self.linear1, self.linear2 = source.linear1, source.linear2
        self.activation = source.activation

    def forward(
        self, x: Tensor, memories: Tensor, positioned: Tensor, pointers: Tensor, table: RopeTable
    ) -> Tensor:
        """Attend to memories and pointers.

        Args:
            x: (O, hw, C) tokens of the frame, or (1, hw, C) where they are the same for all objects.
            memories: (O, R * hw + L, M), the memories and after them L pointer tokens: the values.
            positioned: (O, R, hw, M), the memories plus their positions: the keys.
            pointers: (O, L, M), the same of the pointer tokens; outside the grid, so not rotated.
            table: rotation of the grid's tokens.

        Returns:
            (O, hw, C).
        """
        x = x + self._look_at_itself(self.norm1(x), table)
        x = x + self._look_back(self.norm2(x), memories, positioned, pointers, table)
        return x + self.linear2(self.activation(self.linear1(self.norm3(x))))

    def _look_at_itself(self, x: Tensor, table: RopeTable) -> Tensor:
        layer = self.self_attention
        q = rotate_pairs(split_heads(layer.q_proj(x), layer.heads), table)
        k = rotate_pairs(split_heads(layer.k_proj(x), layer.heads), table)
        v = split_heads(layer.v_proj(x), layer.heads)
        return layer.out_proj(join_heads(layer.attend(q, k, v)))

    def _look_back(
        self, x: Tensor, memories: Tensor, positioned: Tensor, pointers: Tensor, table: RopeTable
    ) -> Tensor:
        layer = self.cross_attention
        q = rotate_pairs(split_heads(layer.q_proj(x), layer.heads), table)
        # (O, R, heads, hw, D): every memory is rotated as the grid it is.
        in_grid = layer.k_proj(positioned).unflatten(-1, (layer.heads, -1)).transpose(2, 3)
        in_grid = rotate_pairs(in_grid, table).transpose(1, 2).flatten(2, 3)
        k = torch.cat((in_grid, split_heads(layer.k_proj(pointers), layer.heads)), dim=2)
        v = split_heads(layer.v_proj(memories), layer.heads)
        return layer.out_proj(join_heads(layer.attend(q.expand(k.shape[0], -1, -1, -1), k, v)))


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
