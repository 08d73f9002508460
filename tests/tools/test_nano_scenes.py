"""The generator of synthetic clips: its labels hold under camera motion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import clips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from held_out import draw_clip
from rendering import composite, layer_flow, object_motion
from scenes import CAMERA_PX, CAMERAS, VIEW_WH, Camera, Layer, Scene, SceneMaker, motion_px, similarity
from train_pi3 import MOVING_PX

FRAMES = 8
RASTER_WH = (224, 126)
"""One raster pixel per scene pixel."""

WARP_GAIN = 0.35
"""Warped frames differ at most this much as plain ones do; the rest is interpolation, twice."""


@pytest.fixture(scope="module")
def maker() -> SceneMaker:
    """Procedural textures only, so the test does not hang on installed pictures."""
    return SceneMaker([], pool=12, seed=5, density=1.0)


def scene_of(maker: SceneMaker, camera: Camera, seed: int) -> Scene:
    return maker.draw(np.random.default_rng(seed), camera, FRAMES)


def sampled(image: torch.Tensor, points: np.ndarray) -> torch.Tensor:
    """Colours (P, 3) of an image (3, H, W) at scene points (P, 2)."""
    grid = torch.from_numpy(points / np.array(VIEW_WH) * 2 - 1).float()[None, None]
    return F.grid_sample(image[None], grid, align_corners=False)[0, :, 0].T


@pytest.mark.parametrize("camera", ["slow", "fast"])
def test_flow_of_a_layer_finds_the_same_colour_in_the_other_frame(maker: SceneMaker, camera: Camera) -> None:
    """Moving each point by its layer's flow explains what a moving camera changes."""
    plain, warped = [], []
    for seed in range(6):
        scene = scene_of(maker, camera, seed)
        image, front = composite(scene, RASTER_WH)
        image = F.avg_pool2d(image, 3, stride=1, padding=1)
        rows, columns = np.mgrid[8 : RASTER_WH[1] - 8 : 5, 8 : RASTER_WH[0] - 8 : 5]
        points = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], -1)
        a, b = 2, 5
        for index, layer in enumerate(scene.layers):
            if layer.wobble is not None:
                continue
            mine = points[front[a].numpy()[rows.ravel(), columns.ravel()] == index]
            moved = mine + layer_flow(layer.poses[a], layer.poses[b], mine)
            inside = ((moved > 2) & (moved < np.array(VIEW_WH) - 2)).all(axis=1)
            mine, moved = mine[inside], moved[inside]
            seen = front[b].numpy()[moved[:, 1].astype(int), moved[:, 0].astype(int)] == index
            before = sampled(image[a], mine[seen])
            plain.append((sampled(image[b], mine[seen]) - before).abs())
            warped.append((sampled(image[b], moved[seen]) - before).abs())
    assert torch.cat(warped).mean() < WARP_GAIN * torch.cat(plain).mean()


@pytest.mark.parametrize("camera", CAMERAS)
def test_background_motion_is_in_the_cameras_range(maker: SceneMaker, camera: Camera) -> None:
    """Static stays below a pixel between window ends; slow and fast reach their ranges."""
    low, high = CAMERA_PX[camera]
    middles = [scene_of(maker, camera, seed).camera_px[FRAMES // 2] for seed in range(20)]
    # Jitter and an uneven pace take the single clip past the range that its speed was drawn from.
    assert 0.3 * low <= min(middles)
    assert max(middles) <= 1.6 * high + 0.5
    if camera == "static":
        assert max(middles) < 1


def test_what_rests_in_the_world_does_not_move_under_a_moving_camera(maker: SceneMaker) -> None:
    """Backdrop, parallax planes and look-alikes have no motion of their own, though their image moves."""
    for seed in range(8):
        for layer in scene_of(maker, "fast", seed).layers:
            if layer.label == 0:
                assert motion_px(layer).max() == 0
                assert np.ptp(layer.poses[:, :, 2], axis=0).max() > 1


def straight_layer(velocity: np.ndarray) -> Layer:
    """A rigid square that moves by (T, 2) pixels per frame."""
    places = np.cumsum(velocity, axis=0) + 50
    world = similarity(np.ones(len(places)), np.zeros(len(places)), places)
    return Layer(rgba=np.ones((8, 8, 4), np.float32), side_px=10, poses=world, world=world, label=1)


def test_motion_is_the_largest_displacement_within_the_window() -> None:
    """A steady speed of 3 px per frame moves 6 px to either end; clipped windows see their half."""
    motion = motion_px(straight_layer(np.tile([3.0, 0.0], (FRAMES, 1))))
    np.testing.assert_allclose(motion, 6.0, atol=1e-9)


def test_motion_ends_when_the_window_has_left_it() -> None:
    """An object that stops at frame 3 still moves in the window of 4 and no longer in that of 5."""
    velocity = np.zeros((FRAMES, 2))
    velocity[1:4, 0] = 2.0
    motion = motion_px(straight_layer(velocity))
    np.testing.assert_allclose(motion, [4, 4, 4, 4, 2, 0, 0, 0], atol=1e-9)


def test_motion_of_a_part_counts_only_where_it_is_seen() -> None:
    """A limb that swings behind the body does not make the object move; one that shows does."""
    limb = replace(straight_layer(np.tile([2.0, 0.0], (FRAMES, 1))), label=1)
    body = replace(straight_layer(np.zeros((FRAMES, 2))), label=1, side_px=20)
    backdrop = replace(straight_layer(np.zeros((FRAMES, 2))), label=0, side_px=400, backdrop=True)
    scene = Scene(camera="static", layers=(backdrop, limb, body), camera_px=np.zeros(FRAMES), objects=1)
    _, front = composite(scene, RASTER_WH)
    shown = (front == 1).numpy().sum(axis=(1, 2))
    motion = object_motion(scene, front.numpy())[1]
    assert shown.min() == 0
    assert shown.max() > 40
    assert (motion[shown == 0] == 0).all()
    assert (motion[shown > 40] > 0).all()


def test_parts_of_an_object_share_its_label_and_look_alikes_have_none(maker: SceneMaker) -> None:
    """Labels run from 1 to the number of objects; look-alikes are 0."""
    for seed in range(12):
        scene = scene_of(maker, "static", seed)
        assert {layer.label for layer in scene.layers if layer.label} == set(range(1, scene.objects + 1))
        assert all(layer.label == 0 for layer in scene.layers if layer.distractor)


def parts_motion(scene: Scene, label: int) -> np.ndarray:
    """Motion (P, T) of each part of an object, seen or not."""
    return np.stack([motion_px(layer) for layer in scene.layers if layer.label == label])


def test_an_object_that_moves_moves_as_a_whole(maker: SceneMaker) -> None:
    """No part rests while another moves: such a body looks like a thing at rest that a mover touches."""
    for seed in range(40):
        scene = scene_of(maker, "static", seed)
        for label in range(1, scene.objects + 1):
            moved = parts_motion(scene, label)
            np.testing.assert_array_equal(moved.min(axis=0) > 0, moved.max(axis=0) > 0)


def test_resting_bodies_rest_while_their_limbs_swing() -> None:
    """They are there where they are asked for, and the whole figure counts as moving."""
    maker = SceneMaker([], pool=12, seed=5, density=1.0, resting_bodies=1.0)
    clip = draw_clip(maker, np.random.default_rng(3), "static", limbs=True)
    resting = [
        label
        for label in range(1, clip.scene.objects + 1)
        if parts_motion(clip.scene, label).max(axis=1).min() == 0 and clip.motion[label].max() > MOVING_PX
    ]
    assert resting
    body = [
        index
        for index, layer in enumerate(clip.scene.layers)
        if layer.label in resting and motion_px(layer).max() == 0
    ]
    assert np.isin(clip.drawn.layers, body).any()


def test_a_shard_is_the_same_for_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed and index decide every byte; another index gives other clips."""
    monkeypatch.setattr(clips, "TEXTURE_POOL", 6)
    first = clips.open_shard(clips.write_shard(tmp_path / "a", seed=3, index=0, clips=2))
    again = clips.open_shard(clips.write_shard(tmp_path / "b", seed=3, index=0, clips=2))
    other = clips.open_shard(clips.write_shard(tmp_path / "a", seed=3, index=1, clips=2))
    for name in clips.Shard.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name), err_msg=name)
    assert not np.array_equal(first.sam2, other.sam2)
