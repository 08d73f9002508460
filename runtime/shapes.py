"""Axis letters bound to lengths: of a network's tensors, of a video, of a frame as Pi3 sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from .arrays import Array
from .contract import ModelSpec
from .pi3_frame import pi3_size_wh

Lengths = Mapping[str, int]
"""Length by axis letter."""

VIDEO_AXES = ("H", "W")
"""Height and width of the video in pixels."""

GRID_AXES = ("h", "w")
"""Rows and columns of Pi3's patch grid."""

PI3_AXES = {"Hp": "h", "Wp": "w"}
"""Height and width of a Pi3 frame in pixels: a patch times the axis of the grid."""


class Axes(Protocol):
    """A tensor of the contract or of a bundle."""

    @property
    def name(self) -> str:
        """By which a network knows it."""
        ...

    @property
    def axes(self) -> tuple[str | int, ...]:
        """An int where the length is fixed, a letter where it varies."""
        ...

    @property
    def host(self) -> bool:
        """Whether it is read on the host: then its values are the video's height and width."""
        ...


def size_axes(tensor: Axes) -> tuple[str | int, ...]:
    """The axes of a tensor's size: of its shape, or of what the values of a host input are lengths of."""
    return VIDEO_AXES if tensor.host else tensor.axes


def size_of(tensor: Axes, lengths: Mapping[str, int]) -> tuple[int, ...]:
    """The size of a tensor at these lengths: its shape, or the values of a host input.

    Raises:
        KeyError: the length of one of its axes is not among them.
    """
    return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in size_axes(tensor))


def letters_of(tensors: Iterable[Axes]) -> tuple[str, ...]:
    """The axes that vary, in the order in which they appear."""
    axes = [axis for tensor in tensors for axis in size_axes(tensor) if isinstance(axis, str)]
    return tuple(dict.fromkeys(axes))


def bound_lengths(tensors: Iterable[Axes], sizes: Mapping[str, Iterable[int]]) -> dict[str, int]:
    """The lengths that tensors of these sizes have, by letter; tensors without a size are left out."""
    return {
        axis: int(length)
        for tensor in tensors
        if tensor.name in sizes
        for axis, length in zip(size_axes(tensor), sizes[tensor.name], strict=True)
        if isinstance(axis, str)
    }


def call_lengths(tensors: Iterable[Axes], inputs: Mapping[str, Array]) -> dict[str, int]:
    """The lengths of a call by letter from its inputs, arrays of any backend."""
    given = [tensor for tensor in tensors if tensor.name in inputs]
    sizes = {t.name: inputs[t.name] if t.host else inputs[t.name].shape for t in given}
    return bound_lengths(given, sizes)


def with_pi3(lengths: Mapping[str, int], patch_px: int) -> dict[str, int]:
    """Lengths with the pixels of a grid that is among them, and with the grid of pixels that are.

    Raises:
        ValueError: pixels that are no multiple of the patch.
    """
    found = dict(lengths)
    for pixels, patches in PI3_AXES.items():
        if patches in lengths:
            found[pixels] = patch_px * lengths[patches]
        elif pixels in lengths:
            if lengths[pixels] % patch_px:
                raise ValueError(f"{lengths[pixels]} pixels, expected a multiple of {patch_px}")
            found[patches] = lengths[pixels] // patch_px
    return found


def video_lengths(model: ModelSpec, video_hw: tuple[int, int]) -> dict[str, int]:
    """The lengths that a video's size in pixels decides: its own and Pi3's.

    Raises:
        GmosError: it is too thin for Pi3.
    """
    height, width = video_hw
    pi3_wh = pi3_size_wh(width, height, model.pi3_area_px, model.patch_px)
    pi3 = dict(zip(PI3_AXES, reversed(pi3_wh), strict=True))
    return with_pi3({**dict(zip(VIDEO_AXES, video_hw, strict=True)), **pi3}, model.patch_px)
