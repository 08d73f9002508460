"""Random synthetic scenes: textured layers and sprites, how they move, and how the camera does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from textures import TEXTURE_PX, Rgb, silhouette, texture

Floats = NDArray[np.float64]
Camera = Literal["static", "slow", "fast"]
CAMERAS: tuple[Camera, ...] = get_args(Camera)

VIEW_WH = (224.0, 126.0)
"""Size of the view in scene pixels, the unit of all positions and speeds: the frame that Pi3 sees."""

WINDOW_REACH = 2
"""Frames on either side of a window's middle; frames of a scene are one window step apart."""

CAMERA_PX: dict[Camera, tuple[float, float]] = {"static": (0.0, 0.9), "slow": (1.0, 8.0), "fast": (8.0, 24.0)}
"""Background motion between the ends of a window, in scene pixels."""

SIDE_PX = (28.0, 140.0)
"""Side of an object's square in scene pixels; the object fills about half of it."""

SPEED_PX = (0.5, 6.0)
"""Speed of an object in scene pixels per frame, drawn log-uniformly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wobble:
    """A travelling sine that bends a layer: amplitude, wave vector (per local pixel), phase per frame."""

    amplitude_px: float
    wave: tuple[float, float]
    phases: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Bend:
    """A smooth warp of a layer: what lies at a local point is drawn `shifts` (T, G, G, 2) away, in local pixels.

    The G x G points, rows first, cover the layer's square from edge to edge; between them it is linear. `opaque`
    (G, G) says near which of them something is seen.
    """

    shifts: Floats
    opaque: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A textured square that moves rigidly, apart from its wobble or bend.

    `poses` (T, 2, 3) map local pixels, whose origin is the square's centre, to scene pixels of the
    image; `world` (T, 2, 3) the same for a camera at rest. `label` is 0 for what never moves by itself,
    a number of its own for each object, shared by its parts; `distractor` marks a look-alike at rest.
    """

    rgba: NDArray[np.float32]
    side_px: float
    poses: Floats
    world: Floats
    label: int = 0
    distractor: bool = False
    wobble: Wobble | None = None
    bend: Bend | None = None
    backdrop: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Layers from back to front; `camera_px` (T,) is the background's motion between window ends."""

    camera: Camera
    layers: tuple[Layer, ...]
    camera_px: Floats
    objects: int


def similarity(scale: Floats, angle: Floats, shift: Floats) -> Floats:
    """(T,), (T,) and (T, 2) to (T, 2, 3): scale and rotate, then shift."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.stack([np.stack([c, -s, shift[:, 0]], -1), np.stack([s, c, shift[:, 1]], -1)], -2)


def compose(outer: Floats, inner: Floats) -> Floats:
    """Affine maps (T, 2, 3): first `inner`, then `outer`."""
    linear = outer[..., :2] @ inner[..., :2]
    shift = outer[..., :2] @ inner[..., 2:] + outer[..., 2:]
    return np.concatenate([linear, shift], axis=-1)


def apply(affine: Floats, points: Floats) -> Floats:
    """Affine maps (..., 2, 3) on points (P, 2) to (..., P, 2)."""
    return points @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]


def window_frames(frame: int, frames: int) -> list[int]:
    """The frames of the window around one, clipped to the clip."""
    return [min(max(frame + k, 0), frames - 1) for k in range(-WINDOW_REACH, WINDOW_REACH + 1)]


class CameraPath:
    """Similarities over time, with a parallax factor for their translation."""

    def __init__(self, rng: np.random.Generator, camera: Camera, frames: int) -> None:
        low, high = CAMERA_PX[camera]
        time = np.arange(frames) - frames / 2
        target = rng.uniform(low, high) if camera != "static" else 0.0
        direction = rng.uniform(0, 2 * np.pi)
        share = rng.dirichlet((4.0, 1.0, 1.0))
        step = target / (2 * WINDOW_REACH)
        bend = rng.uniform(-0.05, 0.05) * time
        heading = np.stack([np.cos(direction + bend), np.sin(direction + bend)], -1)
        pace = 1 + 0.3 * np.sin(rng.uniform(0, 6.28) + rng.uniform(0.1, 0.6) * time)
        moved = np.cumsum(heading * (pace * step * share[0])[:, None], axis=0)
        jitter = rng.choice([0.0, 0.05, 0.15]) if camera == "static" else rng.choice([0.0, 0.1, 0.3])
        self.shift = moved - moved[frames // 2] + rng.normal(0, jitter, (frames, 2))
        # Rotation and zoom move points half a view from the centre by their share of the step.
        arm = VIEW_WH[0] / 4
        self.angle = time * step * share[1] / arm * rng.choice([-1, 1])
        self.scale = np.exp(time * step * share[2] / arm * rng.choice([-1, 1]))

    def poses(self, parallax: float) -> Floats:
        """World to image, for a plane whose translation is that many times the backdrop's."""
        centre = np.array(VIEW_WH) / 2
        # Rotation and zoom turn about the view's centre.
        about = similarity(self.scale, self.angle, np.zeros_like(self.shift))
        shift = centre + apply(about, -centre[None])[:, 0] + self.shift * parallax
        return np.concatenate([about[..., :2], shift[..., None]], axis=-1)


def background_motion(poses: Floats) -> Floats:
    """Mean motion of view points between the ends of each frame's window, (T,)."""
    grid = np.stack(np.meshgrid(*(np.linspace(0, side, 5) for side in VIEW_WH)), -1).reshape(-1, 2)
    seen = apply(poses, grid)
    ends = [(window_frames(t, len(poses))[0], window_frames(t, len(poses))[-1]) for t in range(len(poses))]
    return np.array([np.linalg.norm(seen[b] - seen[a], axis=-1).mean() for a, b in ends])


def activity(rng: np.random.Generator, frames: int) -> Floats:
    """How much of its speed an object has in each frame: steady, stopping, starting or both."""
    active = np.ones(frames)
    kind = rng.random()
    if kind < 0.35:
        at = int(rng.integers(1, frames))
        if kind < 0.175:
            active[at:] = 0
        else:
            active[:at] = 0
    elif kind < 0.42:
        first, last = sorted(rng.integers(0, frames, 2))
        active[first : last + 1] = 0
    return active


def _root_world(rng: np.random.Generator, follow: Floats, active: Floats) -> Floats:
    """The pose of an object in the world, (T, 2, 3): it bounces off the edges of what is seen.

    Args:
        rng: source of its place, speed and heading.
        follow: (T, 2) the camera's path where objects go along with it, else 0.
        active: (T,) share of its speed.
    """
    frames = len(active)
    speed = np.exp(rng.uniform(*np.log(SPEED_PX)))
    heading = rng.uniform(0, 2 * np.pi)
    turn = rng.normal(0, 0.08)
    position = np.array(VIEW_WH) * rng.uniform(0.12, 0.88, 2)
    places = []
    velocity = speed * np.array([np.cos(heading), np.sin(heading)])
    c, s = np.cos(turn), np.sin(turn)
    for t in range(frames):
        places.append(position.copy())
        velocity = np.array([[c, -s], [s, c]]) @ velocity
        position += velocity * active[t]
        for axis in range(2):
            if (position[axis] < 0 and velocity[axis] < 0) or (
                position[axis] > VIEW_WH[axis] and velocity[axis] > 0
            ):
                velocity[axis] *= -1
    spin = rng.choice([0.0, 0.0, rng.normal(0, 0.06)])
    growth = rng.choice([0.0, 0.0, rng.normal(0, 0.012)])
    run = travelled(active)
    return similarity(
        np.exp(growth * (run - frames / 2)),
        rng.uniform(0, 2 * np.pi) * rng.integers(0, 2) + spin * run,
        np.array(places) - follow * np.minimum(1, active.mean() * 2),
    )


def travelled(active: Floats) -> Floats:
    """How many frames at full speed lie before each frame, (T,)."""
    return np.concatenate([[0.0], np.cumsum(active)[:-1]])


def _sprite(rng: np.random.Generator, colours: Rgb, side_px: float, density: float) -> NDArray[np.float32]:
    """A shape cut out of a texture, (S, S, 4), about one texture pixel per raster pixel."""
    side = int(np.clip(round(side_px * density * 1.2), 12, TEXTURE_PX))
    span = int(min(TEXTURE_PX, max(side, side * rng.uniform(1, 3))))
    top, left = rng.integers(0, TEXTURE_PX - span + 1, 2)
    rows = top + (np.arange(side) * span) // side
    columns = left + (np.arange(side) * span) // side
    return np.concatenate([colours[np.ix_(rows, columns)], silhouette(rng, side)[..., None]], axis=-1).astype(
        np.float32
    )


class SceneMaker:
    """Draws scenes from a pool of textures.

    Args:
        pictures: what `load_pictures` found.
        pool: number of textures drawn once and shared by the scenes.
        seed: of the pool.
        density: raster pixels per scene pixel, for the resolution of sprites.
        side_px: least and greatest side of an object, drawn log-uniformly.
        resting_bodies: share of the articulated figures whose body rests while their limbs swing. The whole
            figure counts as moving, and nothing in the picture tells such a body from a thing at rest that
            a moving one touches: 0 for training.
    """

    def __init__(
        self,
        pictures: Sequence[Rgb],
        *,
        pool: int,
        seed: int,
        density: float = 1.5,
        side_px: tuple[float, float] = SIDE_PX,
        resting_bodies: float = 0.0,
    ) -> None:
        rng = np.random.default_rng((seed, 77))
        self._textures = [texture(rng, pictures) for _ in range(pool)]
        self._density = density
        self._side_px = side_px
        self._resting_bodies = resting_bodies

    def draw(self, rng: np.random.Generator, camera: Camera, frames: int) -> Scene:
        """One scene: a backdrop, planes and look-alikes at rest, and zero to four objects."""
        path = CameraPath(rng, camera, frames)
        backdrop = path.poses(1.0)
        layers = [self._backdrop(rng, backdrop)]
        follow = path.shift * (rng.random() < 0.5)
        count = int(rng.choice([0, 1, 2, 3, 4], p=[0.08, 0.34, 0.3, 0.18, 0.1]))
        middle = [self._object(rng, path, follow, frames, label) for label in range(1, count + 1)]
        movers = [parts[0] for parts in middle]
        look_alikes = int(rng.choice([0, 1, 2, 3, 4, 6], p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.1]))
        middle += [[self._at_rest(rng, path, frames, movers)] for _ in range(look_alikes)]
        rng.shuffle(middle)  # type: ignore[arg-type]
        layers += [layer for group in middle for layer in group]
        if rng.random() < 0.3:
            layers.append(self._at_rest(rng, path, frames, [], occluder=True))
        return Scene(
            camera=camera, layers=tuple(layers), camera_px=background_motion(backdrop), objects=count
        )

    def _texture(self, rng: np.random.Generator) -> Rgb:
        return self._textures[int(rng.integers(len(self._textures)))]

    def _backdrop(self, rng: np.random.Generator, poses: Floats) -> Layer:
        colours = self._texture(rng)
        opaque = np.ones((*colours.shape[:2], 1), np.float32)
        side = VIEW_WH[0] * rng.uniform(1.0, 2.0)
        centre = similarity(
            np.ones(len(poses)),
            np.full(len(poses), rng.choice([0, np.pi / 2])),
            np.tile(np.array(VIEW_WH) / 2, (len(poses), 1)),
        )
        return Layer(
            rgba=np.concatenate([colours, opaque], -1),
            side_px=side,
            poses=compose(poses, centre),
            world=centre,
            backdrop=True,
        )

    def _at_rest(
        self,
        rng: np.random.Generator,
        path: CameraPath,
        frames: int,
        movers: Sequence[Layer],
        *,
        occluder: bool = False,
    ) -> Layer:
        """A plane at its own depth, or a look-alike of a mover on the backdrop."""
        copied = movers[int(rng.integers(len(movers)))] if movers and rng.random() < 0.5 else None
        side = copied.side_px if copied else float(np.exp(rng.uniform(*np.log(self._side_px))))
        parallax = rng.uniform(1.1, 1.8) if occluder else rng.choice([1.0, 1.0, rng.uniform(0.6, 1.4)])
        centre = np.tile(np.array(VIEW_WH) * rng.uniform(-0.1, 1.1, 2), (frames, 1))
        world = similarity(np.ones(frames), np.full(frames, rng.uniform(0, 2 * np.pi)), centre)
        rgba = copied.rgba if copied else _sprite(rng, self._texture(rng), side, self._density)
        return Layer(
            rgba=rgba,
            side_px=side,
            poses=compose(path.poses(parallax), world),
            world=world,
            distractor=not occluder,
        )

    def _object(
        self, rng: np.random.Generator, path: CameraPath, follow: Floats, frames: int, label: int
    ) -> list[Layer]:
        """A rigid, bending or articulated object; its parts share the texture and the label."""
        side = float(np.exp(rng.uniform(*np.log(self._side_px))))
        articulated = side > 30 and rng.random() < 0.4
        resting = articulated and rng.random() < self._resting_bodies
        active = np.zeros(frames) if resting else activity(rng, frames)
        root = _root_world(rng, follow, active)
        colours = self._texture(rng)
        camera = path.poses(1.0)
        wobble = None
        if not articulated and rng.random() < 0.25:
            wave = rng.normal(0, 2.5 / side, 2)
            pace = rng.uniform(0.3, 1.2)
            wobble = Wobble(
                amplitude_px=float(rng.uniform(0.5, 0.06 * side + 0.5)),
                wave=(float(wave[0]), float(wave[1])),
                phases=rng.uniform(0, 6.28) + pace * np.arange(frames),
            )

        def part(pose: Floats, part_side: float) -> Layer:
            return Layer(
                rgba=_sprite(rng, colours, part_side, self._density),
                side_px=part_side,
                poses=compose(camera, pose),
                world=pose,
                label=label,
                wobble=wobble,
            )

        # Limbs swing while the body goes: a figure that stops stands still.
        clock = np.arange(frames) if resting else travelled(active)
        parts = [part(root, side)]
        for _ in range(int(rng.integers(1, 5)) if articulated else 0):
            limb = side * rng.uniform(0.35, 0.75)
            swing = rng.uniform(0.1, 0.7) * np.sin(rng.uniform(0, 6.28) + rng.uniform(0.2, 1.0) * clock)
            around = rng.uniform(0, 2 * np.pi)
            joint = 0.35 * side * np.array([np.cos(around), np.sin(around)])
            reach = similarity(np.ones(frames), around + swing, np.tile(joint, (frames, 1)))
            hang = similarity(np.ones(1), np.zeros(1), np.array([[limb * 0.3, 0.0]]))
            parts.append(part(compose(root, compose(reach, hang)), limb))
        rng.shuffle(parts)  # type: ignore[arg-type]
        return parts


def motion_px(layer: Layer) -> Floats:
    """How far a layer's points move in the world between a frame and the others of its window, at most, (T,)."""
    reach = 0.35 * layer.side_px
    corners = np.array([(x, y) for x in (-reach, reach) for y in (-reach, reach)] + [(0.0, 0.0)])
    places = apply(layer.world, corners)
    frames = len(places)
    moved = np.zeros(frames)
    for t in range(frames):
        for k in window_frames(t, frames):
            shift = np.linalg.norm(places[k] - places[t], axis=-1).max()
            if layer.wobble is not None:
                # The most that some point of the wave moves between the two phases.
                turn = layer.wobble.phases[k] - layer.wobble.phases[t]
                shift += 2 * layer.wobble.amplitude_px * abs(np.sin(turn / 2))
            if layer.bend is not None and layer.bend.opaque.any():
                bent = (layer.bend.shifts[k] - layer.bend.shifts[t])[layer.bend.opaque]
                shift += np.linalg.norm(bent @ layer.world[t, :, :2].T, axis=-1).max()
            moved[t] = max(moved[t], shift)
    return moved
