"""Constants that depend on a video's size, computed on the host once per size and fed to the graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, Arrays
from ..contract import ModelSpec, NetworkName, TensorSpec, network_specs
from ..shapes import GRID_AXES, VIDEO_AXES, bound_lengths, with_pi3

SIZES_KEPT = 4
"""Video sizes whose tables are kept; a run over many videos meets few."""

UPLOADED_KEPT = 24
"""Tables that stay uploaded: those of a few video sizes."""

BICUBIC_A = -0.5
"""Keys' parameter of the cubic that antialiased resizing uses in PyTorch and Pillow."""

Float32Array = NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pi3TableSource:
    """What the tables of a Pi3 grid are computed from.

    `position_embedding` (G, G, C) float32 as stored, without the class token's; `head_dim` channels of
    one attention head, of which `rope_base` sets the wavelengths.
    """

    position_embedding: Float32Array
    head_dim: int
    rope_base: float


def table_specs(network: NetworkName, model: ModelSpec, head_dim: int) -> tuple[TensorSpec, ...]:
    """The inputs that a network takes beyond the contract's, in the standard graph."""

    def table(name: str, *axes: str | int, values: str) -> TensorSpec:
        return TensorSpec(name=name, axes=axes, dtype="float32", values=values)

    side = model.sam2_image_px
    position = table("position", "h", "w", model.pi3_channels, values="position embedding of the grid")
    rotation = (
        table("rope_cos", "h", "w", head_dim, values="cosines of the rotation of each patch"),
        table("rope_sin", "h", "w", head_dim, values="sines of the rotation of each patch"),
    )
    specs: dict[str, tuple[TensorSpec, ...]] = {
        "dino": (position, *rotation) if model.frame_blocks else (position,),
        "pi3_decoder": rotation,
        "sam2_resize": (
            table("resize_rows", side, "H", values="weights of the frame's rows in each row of the image"),
            table("resize_columns", "W", side, values="weights of the frame's columns, transposed"),
        ),
    }
    return specs.get(network, ())


class TableMaker:
    """Computes tables by name for the inputs of a call."""

    def __init__(self, pi3: Pi3TableSource, model: ModelSpec) -> None:
        self._pi3 = pi3
        self._model = model
        self._grid = lru_cache(maxsize=SIZES_KEPT)(self._compute_grid)
        self._resize = lru_cache(maxsize=SIZES_KEPT)(self._compute_resize)

    def tables(self, network: NetworkName, shapes: Mapping[str, Shape]) -> Mapping[str, Float32Array]:
        """The tables of a call by the shapes of its inputs; the same arrays as long as the size is kept."""
        names = [table.name for table in table_specs(network, self._model, self._pi3.head_dim)]
        if not names:
            return {}
        given = network_specs(self._model)[network].inputs
        lengths = with_pi3(bound_lengths(given, shapes), self._model.patch_px)
        found: dict[str, Float32Array] = {}
        for axes, compute in ((GRID_AXES, self._grid), (VIDEO_AXES, self._resize)):
            if lengths.keys() >= set(axes):
                found |= compute(*(lengths[axis] for axis in axes))
        return {name: found[name] for name in names}

    def _compute_grid(self, h: int, w: int) -> dict[str, Float32Array]:
        cos, sin = rope_table(h, w, head_dim=self._pi3.head_dim, base=self._pi3.rope_base)
        return {
            "position": resized_position_embedding(self._pi3.position_embedding, h, w),
            "rope_cos": cos,
            "rope_sin": sin,
        }

    def _compute_resize(self, height: int, width: int) -> dict[str, Float32Array]:
        side = self._model.sam2_image_px
        return {
            "resize_rows": bilinear_weights(height, side),
            "resize_columns": np.ascontiguousarray(bilinear_weights(width, side).T),
        }


class DeviceTables:
    """The tables of a maker where a backend's networks read them, uploaded once as long as few are in use."""

    def __init__(self, maker: TableMaker, arrays: Arrays) -> None:
        self._maker = maker
        self._arrays = arrays
        self._uploaded: dict[int, tuple[Float32Array, Array]] = {}

    def of_call(self, network: NetworkName, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The tables of a call with these inputs, by name."""
        shapes = {name: tuple(array.shape) for name, array in inputs.items()}
        tables = self._maker.tables(network, shapes)
        return {name: self._on_device(table) for name, table in tables.items()}

    def clear(self) -> None:
        """Forget what was uploaded."""
        self._uploaded.clear()

    def _on_device(self, table: Float32Array) -> Array:
        # The maker keeps few tables, and gives the same ones again.
        kept = self._uploaded.get(id(table))
        if kept is None or kept[0] is not table:
            while len(self._uploaded) >= UPLOADED_KEPT:
                del self._uploaded[next(iter(self._uploaded))]
            kept = self._uploaded[id(table)] = (table, self._arrays.upload(table))
        return kept[1]


def bilinear_weights(source: int, target: int) -> Float32Array:
    """The matrix (target, source) float32 of an antialiased bilinear resize along one axis."""
    return _filter_weights(source, target, _triangle, radius=1.0)


def bicubic_weights(source: int, target: int) -> Float32Array:
    """The matrix (target, source) float32 of an antialiased bicubic resize along one axis."""
    return _filter_weights(source, target, _cubic, radius=2.0)


def resized_position_embedding(stored: Float32Array, h: int, w: int) -> Float32Array:
    """A stored embedding (G, G, C) for a grid of (h, w) patches: (h, w, C) float32.

    The stored grid itself is returned untouched, any other by antialiased bicubic interpolation.
    """
    if (h, w) == stored.shape[:2]:
        return stored
    rows, columns = bicubic_weights(stored.shape[0], h), bicubic_weights(stored.shape[1], w)
    along_width = np.einsum("wj,ijc->iwc", columns, stored, optimize=True)
    resized = np.einsum("hi,iwc->hwc", rows, along_width, optimize=True)
    return np.ascontiguousarray(resized, dtype=np.float32)


def rope_table(h: int, w: int, *, head_dim: int, base: float) -> tuple[Float32Array, Float32Array]:
    """Cosines and sines (h, w, D) float32 of the Pi3 decoder's rotation of each patch.

    The first half of a head turns with the row, the second with the column, both counted from 1: row 0
    and column 0 belong to the registers. In a half of D channels, angle i is position * base^(-2i/D)
    for i < D/2, written twice.
    """
    half = head_dim // 2
    exponents = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    frequencies = np.float32(base) ** -exponents
    rows = np.arange(1, h + 1, dtype=np.float32)[:, None, None] * frequencies
    columns = np.arange(1, w + 1, dtype=np.float32)[None, :, None] * frequencies
    parts = (rows, rows, columns, columns)
    angles = np.concatenate([np.broadcast_to(part, (h, w, half // 2)) for part in parts], axis=-1)
    return np.cos(angles), np.sin(angles)


def _filter_weights(
    source: int, target: int, kernel: Callable[[Float32Array], Float32Array], *, radius: float
) -> Float32Array:
    """A filter stretched by the reduction, sampled at pixel centres and normalised per output pixel.

    An output pixel reads the pixels whose centres are within the stretched radius, rounded to whole
    pixels as PyTorch and Pillow do. Positions are float32 as PyTorch's, which differ from exact ones by
    up to 1e-5 of a pixel.
    """
    scale = np.float32(source) / np.float32(target)
    stretch = np.maximum(scale, np.float32(1))
    centres = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale
    first = np.maximum((centres - radius * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + radius * stretch + 0.5).astype(np.int64), source)
    pixels = np.arange(source, dtype=np.float32)
    weights: Float32Array = kernel((pixels - centres[:, None] + np.float32(0.5)) / stretch)
    weights[(pixels < first[:, None]) | (pixels >= last[:, None])] = 0
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _triangle(x: Float32Array) -> Float32Array:
    return np.asarray(np.maximum(1 - np.abs(x), 0), np.float32)


def _cubic(x: Float32Array) -> Float32Array:
    a, x = BICUBIC_A, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.asarray(np.where(x < 1, near, np.where(x < 2, far, 0)), np.float32)
