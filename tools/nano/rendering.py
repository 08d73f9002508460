"""Renders synthetic scenes: frames, instance labels, layer labels, and motion between frames."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scenes import VIEW_WH, Floats, Layer, Scene, apply, motion_px
from torch import Tensor

OPAQUE = 0.5
"""Opacity above which a pixel belongs to a layer."""

SEEN_SHARE = 0.0005
"""Share of the picture that a part shows at least where its motion counts: 14 pixels of 224 x 126."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """`frames` (T, H, W, 3) uint8; `layers` (T, H, W) uint8, the index of the scene's layer in front."""

    frames: NDArray[np.uint8]
    layers: NDArray[np.uint8]


def render(scene: Scene, rng: np.random.Generator, raster_wh: tuple[int, int]) -> Rendering:
    """Draw a scene on a raster that covers the view, then add the faults of a camera and its codec."""
    image, front = composite(scene, raster_wh)
    return Rendering(frames=_camera_faults(image, rng), layers=front.numpy())


def composite(scene: Scene, raster_wh: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A scene as a perfect camera sees it: (T, 3, H, W) in [0, 1], and the layer in front (T, H, W) uint8."""
    width, height = raster_wh
    frames = len(scene.layers[0].poses)
    image = torch.zeros(frames, 3, height, width)
    front = torch.zeros(frames, height, width, dtype=torch.uint8)
    for index, layer in enumerate(scene.layers):
        _draw(layer, index, image, front)
    return image, front


def object_motion(scene: Scene, layers: NDArray[np.uint8]) -> dict[int, Floats]:
    """Motion (T,) of each object within each window, in scene pixels.

    The motion of a part counts in the frames that show it: behind another it tells nobody that the object
    moves.

    Args:
        scene: that was rendered.
        layers: of its `Rendering`, (T, H, W).
    """
    motion = {label: np.zeros(len(layers)) for label in range(1, scene.objects + 1)}
    for index, layer in enumerate(scene.layers):
        if layer.label:
            seen = (layers == index).mean(axis=(1, 2)) >= SEEN_SHARE
            np.maximum(motion[layer.label], motion_px(layer) * seen, out=motion[layer.label])
    return motion


def _draw(layer: Layer, index: int, image: Tensor, front: Tensor) -> None:
    """Composite one layer over what is there, inside the box that it reaches."""
    height, width = image.shape[-2:]
    scale = np.array([width, height]) / np.array(VIEW_WH)
    box = (0, 0, width, height)
    if not layer.backdrop:
        half = layer.side_px / 2 + (layer.wobble.amplitude_px if layer.wobble else 0)
        half += np.abs(layer.bend.shifts).max() if layer.bend else 0
        corners = np.array([(x, y) for x in (-half, half) for y in (-half, half)])
        reach = apply(layer.poses, corners) * scale
        low = np.floor(reach.min(axis=(0, 1))).astype(int)
        high = np.ceil(reach.max(axis=(0, 1))).astype(int)
        box = (max(0, low[0]), max(0, low[1]), min(width, high[0]), min(height, high[1]))
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        return
    x = (torch.arange(left, right) + 0.5) / scale[0]
    y = (torch.arange(top, bottom) + 0.5) / scale[1]
    local = _to_local(layer, torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).float())
    texture = torch.from_numpy(layer.rgba).permute(2, 0, 1)[None].expand(len(local), -1, -1, -1)
    sampled = F.grid_sample(
        texture,
        local / (layer.side_px / 2),
        mode="bilinear",
        padding_mode="reflection" if layer.backdrop else "zeros",
        align_corners=False,
    )
    colour, opacity = sampled[:, :3], sampled[:, 3:]
    region = image[:, :, top:bottom, left:right]
    # Outside its square a sprite's colour is zero as well, so opacity weights it already at the rim.
    region.copy_(region * (1 - opacity) + colour.clamp(max=1) * opacity)
    front[:, top:bottom, left:right][opacity[:, 0] > OPAQUE] = index


def _to_local(layer: Layer, points: Tensor) -> Tensor:
    """Scene points (H, W, 2) to the layer's local pixels in every frame (T, H, W, 2)."""
    poses = torch.from_numpy(layer.poses).float()
    inverse = torch.linalg.inv(poses[:, :, :2])
    local = torch.einsum("hwj,tij->thwi", points, inverse)
    local = local - torch.einsum("tij,tj->ti", inverse, poses[:, :, 2])[:, None, None]
    if layer.wobble is not None:
        wave = layer.wobble
        phases = torch.from_numpy(wave.phases).float()[:, None, None]
        bend = wave.amplitude_px * torch.sin(local @ torch.tensor(wave.wave) + phases)
        # Across the wave vector, as a flag bends.
        across = torch.tensor([-wave.wave[1], wave.wave[0]])
        local = local + bend[..., None] * across / across.norm().clamp(min=1e-6)
    if layer.bend is not None:
        shifts = torch.from_numpy(layer.bend.shifts).float().permute(0, 3, 1, 2)
        moved = F.grid_sample(
            shifts, local / (layer.side_px / 2), padding_mode="border", align_corners=True
        ).permute(0, 2, 3, 1)
        # Small smooth shifts: those at the place drawn stand for those at the place that they came from.
        local = local - moved
    return local


def _camera_faults(image: Tensor, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure drift, defocus, noise and JPEG artefacts, each in some clips only."""
    frames = len(image)
    if rng.random() < 0.4:
        gain = 1 + np.cumsum(rng.normal(0, 0.006, frames))
        image = image * torch.from_numpy(gain).float()[:, None, None, None]
    if rng.random() < 0.4:
        image = _blur(image, float(rng.uniform(0.3, 1.0)))
    if rng.random() < 0.6:
        seed = int(rng.integers(2**31))
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        image = image + noise * float(rng.uniform(0.002, 0.025))
    pixels = (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    if rng.random() < 0.5:
        quality = int(rng.integers(40, 95))
        pixels = np.stack([_jpeg(frame, quality) for frame in pixels])
    return pixels


def _blur(image: Tensor, sigma_px: float) -> Tensor:
    reach = torch.arange(-2, 3).float()
    kernel = torch.exp(-(reach**2) / (2 * sigma_px**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(image, (2, 2, 2, 2), mode="replicate")
    rows = sum(weight * padded[:, :, i : i + image.shape[2]] for i, weight in enumerate(kernel.tolist()))
    return sum(  # type: ignore[return-value]
        weight * rows[..., i : i + image.shape[3]]  # type: ignore[index]
        for i, weight in enumerate(kernel.tolist())
    )


def _jpeg(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded)


def layer_flow(poses_from: Floats, poses_to: Floats, points: Floats) -> Floats:
    """Where scene points (P, 2) that lie on a layer move between two of its poses (2, 3), minus the points."""
    local = (points - poses_from[:, 2]) @ np.linalg.inv(poses_from[:, :2]).T
    return apply(poses_to, local) - points
