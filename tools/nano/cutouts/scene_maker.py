"""Draws scenes of cutouts that move before photographs, among others of the same kind that rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scenes import (
    SIDE_PX,
    VIEW_WH,
    Bend,
    Camera,
    CameraPath,
    Floats,
    Layer,
    Scene,
    activity,
    background_motion,
    compose,
    similarity,
    travelled,
)

from cutouts.camera import ShakyCamera
from cutouts.material import Cutout, Material
from cutouts.movement import bend, poses_at_rest, walk

BACKDROP_SIDES = (1.05, 1.7)
"""Side of the backdrop over the width of the view."""

COUNTS = ((0, 1, 2, 3, 4), (0.08, 0.4, 0.3, 0.15, 0.07))
"""How many objects there are, and how often."""

MOST_AT_REST = 7
SPRITE_PX = (16, 320)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprite:
    """A cutout in a square of its own: `rgba` (S, S, 4) in [0, 1]; `feet` is where it ends below, from -1 to 1."""

    rgba: NDArray[np.float32]
    side_px: float
    feet: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """How objects of a clip throw shadows: opacity (0 for none), lean, and length over height."""

    opacity: float
    lean: float
    length: float


class CutoutSceneMaker:
    """Draws scenes from pictures.

    Args:
        material: cutouts and photographs.
        density: raster pixels per scene pixel, for the resolution of pictures.
        side_px: least and greatest side of an object's square, drawn log-uniformly.
    """

    def __init__(
        self, material: Material, *, density: float = 1.5, side_px: tuple[float, float] = SIDE_PX
    ) -> None:
        self._material = material
        self._density = density
        self._side_px = side_px

    def draw(self, rng: np.random.Generator, camera: Camera, frames: int) -> Scene:
        """One scene: a backdrop, planes at other depths, cutouts at rest and zero to four objects.

        `static` and `slow` are the cameras of the first generator; `fast` shakes and zooms.
        """
        path = ShakyCamera(rng, frames) if camera == "fast" else CameraPath(rng, camera, frames)
        backdrop = path.poses(1.0)
        layers = [self._backdrop(rng, backdrop)]
        layers += [self._plane(rng, path, frames) for _ in range(int(rng.choice(3, p=(0.5, 0.35, 0.15))))]
        light = Light(
            opacity=float(rng.choice([0.0, rng.uniform(0.15, 0.45)])),
            lean=float(rng.uniform(-0.8, 0.8)),
            length=float(rng.uniform(0.1, 0.6)),
        )
        follow = path.shift * (rng.random() < 0.5)
        count = int(rng.choice(COUNTS[0], p=COUNTS[1]))
        groups, movers = [], []
        for label in range(1, count + 1):
            sprite = self._sprite(rng)
            movers.append(sprite)
            active = activity(rng, frames)
            groups.append(
                self._object(
                    rng,
                    path.poses(1.0),
                    walk(rng, follow, active),
                    sprite,
                    light=light,
                    clock=travelled(active),
                    label=label,
                )
            )
        resting = range(int(rng.integers(MOST_AT_REST + 1)))
        groups += [self._at_rest(rng, path, frames, movers, light) for _ in resting]
        rng.shuffle(groups)  # type: ignore[arg-type]
        layers += [layer for group in groups for layer in group]
        return Scene(
            camera=camera, layers=tuple(layers), camera_px=background_motion(backdrop), objects=count
        )

    def _patch(self, rng: np.random.Generator, side: int) -> NDArray[np.float32]:
        """A square of a photograph, (side, side, 3), mirrored and lit anew."""
        picture = self._material.photographs[int(rng.integers(len(self._material.photographs)))]
        span = int(min(picture.shape[:2]) * rng.uniform(0.55, 1.0))
        top = int(rng.integers(picture.shape[0] - span + 1))
        left = int(rng.integers(picture.shape[1] - span + 1))
        patch = Image.fromarray((picture[top : top + span, left : left + span] * 255).astype(np.uint8))
        patch = patch.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
        colours = np.asarray(patch, np.float32) / 255
        return _lit(rng, colours[:, ::-1] if rng.random() < 0.5 else colours)

    def _backdrop(self, rng: np.random.Generator, poses: Floats) -> Layer:
        side = VIEW_WH[0] * rng.uniform(*BACKDROP_SIDES)
        colours = self._patch(rng, round(side * self._density))
        opaque = np.ones((*colours.shape[:2], 1), np.float32)
        world = similarity(
            np.ones(len(poses)), np.zeros(len(poses)), np.tile(np.array(VIEW_WH) / 2, (len(poses), 1))
        )
        return Layer(
            rgba=np.concatenate([colours, opaque], -1),
            side_px=side,
            poses=compose(poses, world),
            world=world,
            backdrop=True,
        )

    def _plane(self, rng: np.random.Generator, path: CameraPath, frames: int) -> Layer:
        """A piece of another photograph with a wavy upper edge, at a depth of its own."""
        side = VIEW_WH[0] * rng.uniform(1.2, 1.8)
        pixels = round(side * self._density)
        colours = self._patch(rng, pixels)
        x = np.linspace(0, 1, pixels)
        edge = sum(
            rng.normal(0, 0.06 / order) * np.sin(2 * np.pi * order * x + rng.uniform(0, 6.28))
            for order in (1, 2, 3, 5, 9, 17)
        )
        depth = (np.linspace(-0.5, 0.5, pixels)[:, None] - edge + 0.4) * pixels
        matte = np.clip(depth / rng.uniform(1, 4) + 0.5, 0, 1)[..., None].astype(np.float32)
        # Its edge lies in the lower half of the view.
        middle = np.array([VIEW_WH[0] / 2, VIEW_WH[1] * rng.uniform(0.5, 0.9) + 0.4 * side])
        world = similarity(
            np.ones(frames), np.full(frames, rng.normal(0, 0.06)), np.tile(middle, (frames, 1))
        )
        return Layer(
            rgba=np.concatenate([colours, matte], -1),
            side_px=side,
            poses=compose(path.poses(float(rng.uniform(0.7, 1.7))), world),
            world=world,
        )

    def _sprite(self, rng: np.random.Generator, side_px: float | None = None) -> Sprite:
        """A cutout at random, mirrored and lit anew, in a square that it touches on two sides."""
        cutout = self._material.cutouts[int(rng.integers(len(self._material.cutouts)))]
        side = float(np.exp(rng.uniform(*np.log(self._side_px)))) if side_px is None else side_px
        return _fitted(rng, cutout, side, self._density)

    @staticmethod
    def _object(
        rng: np.random.Generator,
        camera: Floats,
        world: Floats,
        sprite: Sprite,
        *,
        light: Light,
        clock: Floats,
        label: int,
    ) -> list[Layer]:
        """A cutout that moves as a whole, after its shadow; half of them bend."""
        bent = bend(rng, sprite.rgba[..., 3], sprite.side_px, clock) if rng.random() < 0.5 else None
        return _with_shadow(sprite, camera, world, light, bent, label=label)

    def _at_rest(
        self,
        rng: np.random.Generator,
        path: CameraPath,
        frames: int,
        movers: Sequence[Sprite],
        light: Light,
    ) -> list[Layer]:
        """A cutout that rests; half of them show the very picture of one that moves."""
        copied = movers[int(rng.integers(len(movers)))] if movers and rng.random() < 0.5 else None
        sprite = self._sprite(rng) if copied is None else copied
        parallax = float(rng.choice([1.0, 1.0, rng.uniform(0.7, 1.5)]))
        return _with_shadow(sprite, path.poses(parallax), poses_at_rest(rng, frames), light, None, label=0)


def _lit(rng: np.random.Generator, colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours with another brightness, contrast and tint."""
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3)
    return np.clip(colours * gain + rng.uniform(-0.06, 0.06), 0, 1).astype(np.float32)


def _fitted(rng: np.random.Generator, cutout: Cutout, side_px: float, density: float) -> Sprite:
    side = int(np.clip(round(side_px * density * 1.1), *SPRITE_PX))
    picture = Image.fromarray(cutout.rgba)
    # A margin, so that the matte ends within the square.
    scale = (side - 2) / max(picture.size)
    size = (max(2, round(picture.width * scale)), max(2, round(picture.height * scale)))
    # Pillow weighs colours by alpha when it resizes.
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rgba = np.zeros((side, side, 4), np.float32)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    placed = np.asarray(picture, np.float32) / 255
    rgba[top : top + size[1], left : left + size[0]] = placed
    # Where nothing is seen the colour is that of the cutout on the whole: the rim does not darken.
    mean = (placed[..., :3] * placed[..., 3:]).sum((0, 1)) / max(float(placed[..., 3].sum()), 1e-6)
    rgba[..., :3] = np.where(rgba[..., 3:] > 0, rgba[..., :3], mean)
    rgba[..., :3] = _lit(rng, rgba[..., :3])
    return Sprite(rgba=rgba, side_px=side_px, feet=2 * (top + size[1]) / side - 1)


def _with_shadow(
    sprite: Sprite, camera: Floats, world: Floats, light: Light, bent: Bend | None, *, label: int
) -> list[Layer]:
    """The layer of a sprite, after that of its shadow where there is light."""
    body = Layer(
        rgba=sprite.rgba,
        side_px=sprite.side_px,
        poses=compose(camera, world),
        world=world,
        label=label,
        distractor=label == 0,
        bend=bent,
    )
    if not light.opacity:
        return [body]
    foot = sprite.feet * sprite.side_px / 2
    # What stands above the feet falls below them.
    fall = np.array(
        [[[1.0, light.lean, -light.lean * foot], [0.0, -light.length, (1 + light.length) * foot]]]
    )
    thrown = compose(world, np.repeat(fall, len(world), axis=0))
    matte = Image.fromarray((sprite.rgba[..., 3] * 255).astype(np.uint8))
    soft = np.asarray(matte.filter(ImageFilter.GaussianBlur(1 + len(sprite.rgba) / 60)), np.float32) / 255
    rgba = np.zeros_like(sprite.rgba)
    rgba[..., 3] = soft * light.opacity
    shadow = Layer(rgba=rgba, side_px=sprite.side_px, poses=compose(camera, thrown), world=thrown, bend=bent)
    return [shadow, body]
