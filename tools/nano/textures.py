"""Textures of synthetic scenes: procedural ones and patches of freely licensed pictures that packages ship."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.float32]
"""(H, W, 3) in [0, 1]."""

TEXTURE_PX = 256

HELD_OUT_OF = 5

PICTURES = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": (
        "data/astronaut.png",
        "data/brick.png",
        "data/camera.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/grass.png",
        "data/gravel.png",
        "data/hubble_deep_field.jpg",
        "data/rocket.jpg",
    ),
}
"""Pictures inside installed packages (scikit-learn: CC BY 2.0; scikit-image: CC0 or public domain)."""


def picture_files() -> list[Path]:
    """The pictures of those packages that are installed; the packages themselves are never imported."""
    found = []
    for package, names in PICTURES.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += [path for name in names if (path := Path(spec.origin).parent / name).exists()]
    return found


def is_held_out(name: str) -> bool:
    """Whether a picture of this file name is never trained on: one in five, by its CRC-32."""
    return zlib.crc32(name.encode()) % HELD_OUT_OF == 0


def load_pictures(*, training: bool = False) -> list[Rgb]:
    """The pictures of `picture_files`, without those that are held out where they are for training."""
    found = []
    for path in picture_files():
        if training and is_held_out(path.name):
            continue
        with Image.open(path) as image:
            found.append(np.asarray(image.convert("RGB"), np.float32) / 255)
    return found


def texture(generator: np.random.Generator, pictures: Sequence[Rgb]) -> Rgb:
    """One random texture (TEXTURE_PX, TEXTURE_PX, 3): half of them picture patches where there are any."""
    if pictures and generator.random() < 0.5:
        picked = _picture_patch(generator, pictures[int(generator.integers(len(pictures)))])
    else:
        kinds = (_spectrum, _spectrum, _cells, _stripes, _gradient)
        picked = kinds[int(generator.integers(len(kinds)))](generator)
    return _recolour(generator, picked)


def _picture_patch(generator: np.random.Generator, picture: Rgb) -> Rgb:
    height, width = picture.shape[:2]
    side = int(min(height, width) * generator.uniform(0.15, 1.0))
    top = int(generator.integers(height - side + 1))
    left = int(generator.integers(width - side + 1))
    patch = Image.fromarray((picture[top : top + side, left : left + side] * 255).astype(np.uint8))
    scaled = np.asarray(patch.resize((TEXTURE_PX, TEXTURE_PX), Image.Resampling.BILINEAR), np.float32) / 255
    return scaled[:, ::-1] if generator.random() < 0.5 else scaled


def _spectrum(generator: np.random.Generator) -> Rgb:
    """Noise whose amplitude falls with frequency to a random power, as natural pictures have it."""
    fy = np.fft.fftfreq(TEXTURE_PX)[:, None]
    fx = np.fft.rfftfreq(TEXTURE_PX)[None]
    stretch = generator.uniform(0.3, 3.0)
    radius = np.sqrt((fy * stretch) ** 2 + (fx / stretch) ** 2)
    amplitude = 1 / np.maximum(radius, 1 / TEXTURE_PX) ** generator.uniform(0.7, 2.0)
    amplitude[0, 0] = 0
    noise = generator.standard_normal((3, *amplitude.shape)) + 1j * generator.standard_normal(
        (3, *amplitude.shape)
    )
    maps = np.fft.irfft2(noise * amplitude, s=(TEXTURE_PX, TEXTURE_PX))
    maps /= maps.std(axis=(1, 2), keepdims=True) + 1e-6
    mix = generator.standard_normal((3, 3)) * 0.25 + 0.6
    colour = np.tensordot(mix, maps, axes=1) * generator.uniform(0.05, 0.2)
    return (colour + generator.uniform(0.2, 0.8, (3, 1, 1))).transpose(1, 2, 0).astype(np.float32)


def _cells(generator: np.random.Generator) -> Rgb:
    """Flat or shaded Voronoi cells."""
    count = int(generator.integers(6, 60))
    centres = generator.uniform(0, TEXTURE_PX, (count, 2)).astype(np.float32)
    colours = generator.uniform(0, 1, (count, 3)).astype(np.float32)
    rows, columns = np.mgrid[:TEXTURE_PX:2, :TEXTURE_PX:2].astype(np.float32)
    distance = (rows[..., None] - centres[:, 0]) ** 2 + (columns[..., None] - centres[:, 1]) ** 2
    nearest = distance.argmin(axis=-1)
    shade = np.sqrt(distance.min(axis=-1))[..., None] / TEXTURE_PX * generator.uniform(0, 3)
    return np.clip(colours[nearest] - shade, 0, 1).repeat(2, axis=0).repeat(2, axis=1)


def _stripes(generator: np.random.Generator) -> Rgb:
    """Stripes or a checkerboard under a random angle, sharp or smooth."""
    rows, columns = np.mgrid[:TEXTURE_PX, :TEXTURE_PX].astype(np.float32)
    angle, period = generator.uniform(0, np.pi), generator.uniform(10, 70)
    across = np.sin(2 * np.pi * (np.cos(angle) * rows + np.sin(angle) * columns) / period)
    if generator.random() < 0.5:
        across = across * np.sin(2 * np.pi * (np.cos(angle) * columns - np.sin(angle) * rows) / period)
    weight = 0.5 + 0.5 * np.tanh(across * generator.uniform(1, 6))
    first, second = generator.uniform(0, 1, (2, 3)).astype(np.float32)
    return (weight[..., None] * first + (1 - weight[..., None]) * second).astype(np.float32)


def _gradient(generator: np.random.Generator) -> Rgb:
    """A smooth ramp with faint noise: sky, wall or skin."""
    rows, columns = np.mgrid[:TEXTURE_PX, :TEXTURE_PX].astype(np.float32) / TEXTURE_PX
    corners = generator.uniform(0, 1, (4, 3)).astype(np.float32)
    corners = corners.mean(axis=0) + (corners - corners.mean(axis=0)) * generator.uniform(0.1, 0.8)
    top = corners[0] * (1 - columns[..., None]) + corners[1] * columns[..., None]
    bottom = corners[2] * (1 - columns[..., None]) + corners[3] * columns[..., None]
    ramp = top * (1 - rows[..., None]) + bottom * rows[..., None]
    return (ramp + (_spectrum(generator) - 0.5) * generator.uniform(0, 0.3)).astype(np.float32)


def _recolour(generator: np.random.Generator, picked: Rgb) -> Rgb:
    """Random contrast, brightness and channel mix."""
    if generator.random() < 0.3:
        picked = picked[..., generator.permutation(3)]
    mean = picked.mean(axis=(0, 1))
    contrast = generator.uniform(0.5, 1.3)
    shift = generator.uniform(-0.15, 0.15) + generator.uniform(-0.1, 0.1, 3)
    return np.clip((picked - mean) * contrast + mean + shift, 0, 1).astype(np.float32)


def silhouette(generator: np.random.Generator, side_px: int) -> NDArray[np.float32]:
    """The opacity (side_px, side_px) of a random shape that touches its square's sides, edges one pixel soft."""
    axis = (np.arange(side_px, dtype=np.float32) + 0.5) / side_px * 2 - 1
    x, y = axis[None], axis[:, None]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    kind = int(generator.integers(4))
    if kind == 0:  # ellipse
        a, b = generator.uniform(0.45, 0.95, 2)
        inside = 1 - np.sqrt((x / a) ** 2 + (y / b) ** 2)
    elif kind == 1:  # rounded box
        a, b = generator.uniform(0.35, 0.9, 2)
        power = generator.uniform(3, 8)
        inside = 1 - ((np.abs(x) / a) ** power + (np.abs(y) / b) ** power) ** (1 / power)
    elif kind == 2:  # blob
        outline = np.full_like(radius, 0.68)
        for order in range(2, 6):
            outline += generator.uniform(0, 0.5 / order) * np.cos(
                order * angle + generator.uniform(0, 2 * np.pi)
            )
        inside = np.clip(outline, 0.25, 0.95) - radius
    else:  # polygon or star
        corners = int(generator.integers(3, 8))
        turned = (angle + generator.uniform(0, 2 * np.pi)) % (2 * np.pi / corners) - np.pi / corners
        side = np.cos(np.pi / corners) / np.maximum(np.cos(turned), 1e-3)
        dent = 1 - generator.uniform(0, 0.5) * (1 - np.abs(turned) / (np.pi / corners))
        inside = 0.92 * side * dent - radius
    return np.clip(inside * side_px / 2 + 0.5, 0, 1).astype(np.float32)
