"""Writes held-out synthetic clips as datasets that gmos-eval reads, one per kind of camera.

Two more kinds have a camera at rest: stop, an object that stops; limbs, figures whose body rests while its
limbs swing, which as a whole count as moving. In each: frames in JPEGImages, what moves in foreground/, all
objects in objects/, look-alikes at rest in distractors/, the motion annotation in time_annotation.csv.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from clips import Maker
from numpy.typing import NDArray
from PIL import Image
from rendering import Rendering, object_motion, render
from scenes import (
    CAMERAS,
    SIDE_PX,
    VIEW_WH,
    Camera,
    Floats,
    Layer,
    Scene,
    SceneMaker,
    compose,
    motion_px,
    similarity,
)
from textures import load_pictures
from train_pi3 import MOVING_PX, UNSURE_PX

from gmos_deploy.runtime.results.png_writer import PngWriter

SEED = 987_654
"""Of the clips; training seeds are small numbers, so no clip and no texture is shared."""

VIDEO_WH = (448, 252)
CLIP_FRAMES = 17
"""A prompted frame and the 16 after it."""

STOP_FRAMES, STOP_AT = 24, 10
MIN_AREA_PX = 250
"""A moving object shows at least so many pixels in some frame, or the clip is drawn anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A scene, its pictures, and the motion (T,) of each object of them."""

    scene: Scene
    drawn: Rendering
    motion: dict[int, Floats]

    def labels(self) -> NDArray[np.uint8]:
        """Object labels (T, H, W)."""
        return self._of_layers([layer.label for layer in self.scene.layers])

    def distractors(self) -> NDArray[np.uint8]:
        """1 where a look-alike at rest is seen, (T, H, W)."""
        return self._of_layers([layer.distractor for layer in self.scene.layers])

    def _of_layers(self, values: Sequence[int]) -> NDArray[np.uint8]:
        return np.array(values, np.uint8)[self.drawn.layers]


def rendered(scene: Scene, rng: np.random.Generator) -> Clip:
    """The clip of a scene."""
    drawn = render(scene, rng, VIDEO_WH)
    return Clip(scene=scene, drawn=drawn, motion=object_motion(scene, drawn.layers))


def draw_clip(maker: Maker, rng: np.random.Generator, camera: Camera, *, limbs: bool = False) -> Clip:
    """A clip with a moving object of some size, in which no object moves too little to tell.

    Args:
        maker: of scenes.
        rng: source of everything.
        camera: how it moves.
        limbs: whether the clip must show a figure whose body rests while a limb moves.
    """
    while True:
        scene = maker.draw(rng, camera, CLIP_FRAMES)
        if not scene.objects or (camera == "static" and scene.camera_px.max() >= 1):
            continue
        if limbs and not any(_body_rests(scene, label) for label in range(1, scene.objects + 1)):
            continue
        clip = rendered(scene, rng)
        if any(((m > UNSURE_PX) & (m <= MOVING_PX)).any() for m in clip.motion.values()):
            continue
        labels = clip.labels()
        if any(
            ((labels == label).sum(axis=(1, 2))[moved > MOVING_PX] >= MIN_AREA_PX).any()
            for label, moved in clip.motion.items()
        ):
            return clip


def _body_rests(scene: Scene, label: int) -> bool:
    moved = [motion_px(layer).max() for layer in scene.layers if layer.label == label]
    return min(moved) == 0 and max(moved) > MOVING_PX


def draw_stop(maker: SceneMaker, rng: np.random.Generator) -> Clip:
    """One rigid object before a camera at rest; it moves at a steady pace and stops at STOP_AT."""
    while True:
        scene = maker.draw(rng, "static", STOP_FRAMES)
        backdrop, rest = scene.layers[0], [layer for layer in scene.layers[1:] if layer.distractor]
        found = [layer for layer in scene.layers if layer.label and 30 < layer.side_px < 80]
        if not found:
            continue
        time = np.minimum(np.arange(STOP_FRAMES), STOP_AT).astype(float)
        heading = rng.uniform(0, 2 * np.pi)
        velocity = rng.uniform(2, 4) * np.array([np.cos(heading), np.sin(heading)])
        middle = np.array(VIEW_WH) * rng.uniform(0.35, 0.65, 2)
        places = middle + velocity * (time - STOP_AT / 2)[:, None]
        world = similarity(np.ones(STOP_FRAMES), np.zeros(STOP_FRAMES), places)
        steady = similarity(np.ones(STOP_FRAMES), np.zeros(STOP_FRAMES), np.zeros((STOP_FRAMES, 2)))
        moving = replace(found[0], label=1, world=world, poses=compose(steady, world), wobble=None)
        layers: tuple[Layer, ...] = (backdrop, *rest[:3], moving)
        return rendered(replace(scene, layers=layers, objects=1), rng)


def write_clip(root: Path, name: str, clip: Clip) -> dict[str, str]:
    """Write one sequence and return its row of the motion annotation."""
    labels = clip.labels()
    frames = len(labels)
    moving = np.zeros((frames, clip.scene.objects + 1), bool)
    for label, moved in clip.motion.items():
        moving[:, label] = moved > MOVING_PX
    foreground = np.stack([moving[t][labels[t]] for t in range(frames)]).astype(np.uint8)
    folder = root / "JPEGImages" / name
    folder.mkdir(parents=True, exist_ok=True)
    for t in range(frames):
        Image.fromarray(clip.drawn.frames[t]).save(folder / f"{t:05d}.png")
    for kind, maps in (("foreground", foreground), ("objects", labels), ("distractors", clip.distractors())):
        writer = PngWriter(root / kind / name, "palette")
        for t in range(frames):
            writer.write(t, maps[t])
    intervals = {label: list(_intervals(moving[:, label])) for label in clip.motion if moving[:, label].any()}
    return {"seq_name": name, "time_anno": str(intervals), "dataset": "davis", "split": "test"}


def _intervals(moving: NDArray[np.bool_]) -> Iterator[list[int]]:
    """First and last frame of each movement."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], moving, [False]]).astype(int)))
    for first, end in edges.reshape(-1, 2).tolist():
        yield [first, end - 1]


def main() -> None:
    """Write the datasets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder to write to")
    parser.add_argument("--clips", type=int, default=24, help="clips per kind of camera (default: 24)")
    parser.add_argument(
        "--side_px",
        type=float,
        nargs=2,
        default=SIDE_PX,
        metavar=("LEAST", "GREATEST"),
        help=f"side of objects in pixels of a {VIEW_WH[0]:.0f} px wide frame (default: %(default)s)",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = load_pictures()
    makers = {
        share: SceneMaker(
            pictures,
            pool=300,
            seed=SEED,
            density=VIDEO_WH[0] / VIEW_WH[0],
            side_px=tuple(options.side_px),
            resting_bodies=share,
        )
        for share in (0.0, 1.0)
    }
    draws: dict[str, Callable[[np.random.Generator], Clip]] = {
        camera: partial(draw_clip, makers[0.0], camera=camera) for camera in CAMERAS
    }
    draws["stop"] = partial(draw_stop, makers[0.0])
    draws["limbs"] = partial(draw_clip, makers[1.0], camera="static", limbs=True)
    for number, (kind, draw) in enumerate(draws.items()):
        root = options.root / kind
        rng = np.random.default_rng((SEED, number))
        rows = [write_clip(root, f"{kind}-{index:02d}", draw(rng)) for index in range(options.clips)]
        with (root / "time_annotation.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        print(f"{root}: {len(rows)} clips", flush=True)


if __name__ == "__main__":
    main()
