"""Shards of synthetic clips on disk: how they are written, and how training reads them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rendering import object_motion, render
from scenes import CAMERAS, Camera, Scene, SceneMaker
from textures import load_pictures

CLIP_FRAMES = 8
"""Enough for a window; the tracker can be trained on longer clips."""

CLIPS_PER_SHARD = 48
SAM2_PX = 256
LAYERS_PX = 128
PI3_WH = (280, 154)
RASTER_WH = (280, 256)
"""What clips are rendered at; both networks' frames are made from it."""

MAX_LAYERS = 40
TEXTURE_POOL = 250
CAMERA_SHARES = {"static": 0.5, "slow": 0.34, "fast": 0.16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The memory-mapped arrays of one shard of n clips of T frames.

    `sam2` (n, T, 256, 256, 3) and `pi3` (n, T, 154, 280, 3) uint8 show the same view; `layers`
    (n, T, 128, 128) uint8 is the layer in front. Per layer: `labels` (n, L) object number or 0,
    `motion_px` (n, L, T) of the whole object that it belongs to, `poses` (n, L, T, 2, 3) in scene pixels, and
    `distractors` (n, L). Per clip: `camera` (n,) index in CAMERAS and `camera_px` (n, T).
    """

    sam2: NDArray[np.uint8]
    pi3: NDArray[np.uint8]
    layers: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    motion_px: NDArray[np.float32]
    poses: NDArray[np.float32]
    distractors: NDArray[np.bool_]
    camera: NDArray[np.uint8]
    camera_px: NDArray[np.float32]


def shard_folder(root: Path, index: int) -> Path:
    """Where a shard lies."""
    return root / f"shard-{index:04d}"


class Maker(Protocol):
    """Draws scenes: the first generator or that of cutouts."""

    def draw(self, rng: np.random.Generator, camera: Camera, frames: int) -> Scene:
        """A scene of so many frames."""


def write_shard(
    root: Path,
    seed: int,
    index: int,
    *,
    clips: int = CLIPS_PER_SHARD,
    frames: int = CLIP_FRAMES,
    maker: Maker | None = None,
) -> Path:
    """Render a shard; the same seed and index give the same bytes. Moved into place once it is whole.

    Args:
        root: folder of the shards.
        seed: of the whole set.
        index: of the shard.
        clips: how many there are in it.
        frames: of a clip.
        maker: of scenes; the first generator with textures of its own where none is given.
    """
    if maker is None:
        maker = SceneMaker(load_pictures(training=True), pool=TEXTURE_POOL, seed=seed * 100_003 + index)
    rng = np.random.default_rng((seed, index))
    arrays: dict[str, list[NDArray[np.generic]]] = {name: [] for name in Shard.__dataclass_fields__}
    for _ in range(clips):
        camera = CAMERAS[int(rng.choice(len(CAMERAS), p=[CAMERA_SHARES[name] for name in CAMERAS]))]
        for name, value in _clip(maker, rng, camera, frames).items():
            arrays[name].append(value)
    folder = shard_folder(root, index)
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    for name, values in arrays.items():
        np.save(part / f"{name}.npy", np.stack(values))
    part.rename(folder)
    return folder


def _clip(
    maker: Maker, rng: np.random.Generator, camera: Camera, frames: int
) -> dict[str, NDArray[np.generic]]:
    scene = maker.draw(rng, camera, frames)
    drawn = render(scene, rng, RASTER_WH)
    rows, columns = ((np.arange(LAYERS_PX) + 0.5) * side / LAYERS_PX for side in RASTER_WH[::-1])
    count = len(scene.layers)
    labels = np.zeros(MAX_LAYERS, np.uint8)
    distractors = np.zeros(MAX_LAYERS, np.bool_)
    moved = np.zeros((MAX_LAYERS, frames), np.float32)
    poses = np.zeros((MAX_LAYERS, frames, 2, 3), np.float32)
    labels[:count] = [layer.label for layer in scene.layers]
    distractors[:count] = [layer.distractor for layer in scene.layers]
    poses[:count] = [layer.poses for layer in scene.layers]
    motion = object_motion(scene, drawn.layers)
    for index, layer in enumerate(scene.layers):
        if layer.label:
            moved[index] = motion[layer.label]
    return {
        "sam2": _resized(drawn.frames, (SAM2_PX, SAM2_PX)),
        "pi3": _resized(drawn.frames, PI3_WH),
        "layers": drawn.layers[:, rows.astype(int)][:, :, columns.astype(int)],
        "labels": labels,
        "motion_px": moved,
        "poses": poses,
        "distractors": distractors,
        "camera": np.uint8(CAMERAS.index(camera)),  # type: ignore[dict-item]
        "camera_px": scene.camera_px.astype(np.float32),
    }


def _resized(frames: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3) at another size, antialiased."""
    small = F.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(),
        size_wh[::-1],
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return (small + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def open_shard(folder: Path) -> Shard:
    """The arrays of a shard, read on demand."""
    return Shard(
        **{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in Shard.__dataclass_fields__}
    )


class ShardPool:
    """Shards of one folder, or of two of which the second gives a share of what is drawn.

    A shard that is not there yet is waited for: generate.py may still be writing.
    """

    def __init__(
        self,
        root: Path,
        count: int,
        *,
        more: Path | None = None,
        more_count: int = 0,
        more_share: float = 0.0,
    ) -> None:
        self._root, self._count = root, count
        self._more, self._more_count, self._more_share = more, more_count, more_share
        self._open: dict[Path, Shard] = {}

    def draw(self, rng: np.random.Generator, most: int | None = None) -> Shard:
        """A shard at random, of the first so many of its folder."""
        root, count = self._root, self._count
        if self._more is not None and rng.random() < self._more_share:
            root, count = self._more, self._more_count
        folder = shard_folder(root, int(rng.integers(count if most is None else min(most, count))))
        if folder not in self._open:
            while not folder.exists():
                time.sleep(2)
            self._open[folder] = open_shard(folder)
        return self._open[folder]
