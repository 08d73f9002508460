"""How cutouts move: along the ground mostly, turning, growing and bending as they go."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scenes import SPEED_PX, VIEW_WH, Bend, Floats, similarity, travelled

GRID = 9
"""Points of a bend on each side."""

BEND_SHARE = (0.01, 0.08)
"""Farthest shift of a bend over the side of its square."""


def walk(rng: np.random.Generator, follow: Floats, active: Floats) -> Floats:
    """The pose of an object in the world, (T, 2, 3): it turns back at the edges of what is seen.

    Args:
        rng: source of its place, speed and heading.
        follow: (T, 2) the camera's path where objects go along with it, else 0.
        active: (T,) share of its speed.
    """
    frames = len(active)
    speed = np.exp(rng.uniform(*np.log(SPEED_PX)))
    level = rng.random() < 0.6
    heading = rng.choice([0, np.pi]) + rng.normal(0, 0.25) if level else rng.uniform(0, 2 * np.pi)
    turn = rng.normal(0, 0.08)
    velocity = speed * np.array([np.cos(heading), np.sin(heading)])
    c, s = np.cos(turn), np.sin(turn)
    position = np.array(VIEW_WH) * rng.uniform(0.1, 0.9, 2)
    places = []
    for t in range(frames):
        places.append(position.copy())
        velocity = np.array([[c, -s], [s, c]]) @ velocity
        position += velocity * active[t]
        outside = ((position < 0) & (velocity < 0)) | ((position > VIEW_WH) & (velocity > 0))
        velocity[outside] *= -1
    run = travelled(active)
    # Steps of a walk: up and down, at most as fast as it goes.
    beat = rng.uniform(0.5, 2.0)
    bob = rng.choice([0.0, min(1.5, 0.4 * speed / beat)]) * np.abs(np.sin(rng.uniform(0, 3) + beat * run))
    spin = rng.choice([0.0, 0.0, rng.normal(0, 0.05)])
    growth = rng.choice([0.0, 0.0, rng.normal(0, 0.02)])
    upright = rng.normal(0, 0.15) if rng.random() < 0.8 else rng.uniform(0, 2 * np.pi)
    places = np.array(places) - follow * np.minimum(1, active.mean() * 2)
    places[:, 1] -= bob
    return similarity(np.exp(np.clip(growth * (run - run[-1] / 2), -0.6, 0.6)), upright + spin * run, places)


def poses_at_rest(rng: np.random.Generator, frames: int) -> Floats:
    """A place in the world, (T, 2, 3), all the time."""
    centre = np.array(VIEW_WH) * rng.uniform(-0.05, 1.05, 2)
    angle = rng.normal(0, 0.15) if rng.random() < 0.8 else rng.uniform(0, 2 * np.pi)
    return similarity(np.ones(frames), np.full(frames, angle), np.tile(centre, (frames, 1)))


def bend(rng: np.random.Generator, matte: NDArray[np.float32], side_px: float, clock: Floats) -> Bend:
    """A warp of two kinds at once: a wave that travels, and parts beyond a pivot that swing like limbs.

    Args:
        rng: source of everything.
        matte: (S, S) in [0, 1], what is seen of the square.
        side_px: side of the square.
        clock: (T,) frames at full speed: an object that stands still does not bend.
    """
    y, x = np.meshgrid(np.linspace(-1, 1, GRID), np.linspace(-1, 1, GRID), indexing="ij")
    wave = rng.normal(0, 2.0, 2)
    phase = clock[:, None, None] * rng.uniform(0.4, 1.4) + rng.uniform(0, 2 * np.pi)
    travelling = np.sin(wave[0] * x + wave[1] * y + phase)[..., None] * np.array([wave[1], -wave[0]])
    travelling /= max(float(np.linalg.norm(wave)), 1e-6)
    # Beyond the pivot, along a direction that is mostly down; neighbouring limbs swing against each other.
    along = rng.normal(np.pi / 2, 0.6)
    reach = np.clip(x * np.cos(along) + y * np.sin(along) - rng.uniform(-0.5, 0.3), 0, None) ** 1.5
    across = np.cos(rng.uniform(1.0, 5.0) * (y * np.cos(along) - x * np.sin(along)) + rng.uniform(0, 3))
    swing = np.sin(clock * rng.uniform(0.3, 1.5) + rng.uniform(0, 6.28))[:, None, None] * reach * across
    limbs = swing[..., None] * np.array([-np.sin(along), np.cos(along)])
    share = rng.uniform(0, 1)
    shifts = share * travelling + (1 - share) * limbs
    size = side_px * np.exp(rng.uniform(*np.log(BEND_SHARE)))
    shifts *= size / max(float(np.linalg.norm(shifts, axis=-1).max()), 1e-6)
    seen = np.asarray(
        Image.fromarray((matte * 255).astype(np.uint8)).resize((GRID, GRID), Image.Resampling.BOX)
    )
    return Bend(shifts=shifts, opaque=seen > 127)
