"""Trains the nano Pi3 encoder alone: what moves, per token and on every frame of a window, and flow.

First on small crops, near-static cameras first, then on whole frames. Resumes where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from clips import CLIP_FRAMES, PI3_WH, Shard, ShardPool
from initial_weights import initialise_pi3
from losses import flow_loss, mask_loss, soft_iou
from rendering import layer_flow
from scenes import CAMERAS, VIEW_WH, WINDOW_REACH
from torch import Tensor, nn
from training_loop import TrainingLoop, on_device, option_parser, shard_pool, training_device

from gmos_deploy.gmos_ref.pi3.encoder import Pi3Encoder, Pi3Tables
from gmos_deploy.gmos_ref.presets import preset

PATCH_PX = 14
CELLS = 7
"""Side of the mask that each token predicts: two pixels per cell."""

MOVING_PX = 0.75
UNSURE_PX = 0.3
"""An object moves above the first and rests below the second, in pixels within a window; between, no loss."""

ALIKE_WEIGHT = 3.0
"""How much a pixel of a look-alike at rest counts in the mask losses: they are few, and easily taken."""

FLOW_SCALE_PX = 4.0

MATCH_LEVELS_PX = (-24.0, -12.0, -6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 12.0, 24.0)
"""Displacements along an axis between which a match is told."""

MOST_OBJECTS = 8
"""Labels of a clip run below it."""

PEAK_RATE = 7e-4
WINDOW = 2 * WINDOW_REACH + 1


class TokenHeads(nn.Module):
    """Auxiliary heads on the tokens of every frame; thrown away after training."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mask = nn.Linear(dim, CELLS * CELLS)
        self.flow = nn.Sequential(nn.Linear(2 * dim, 96), nn.GELU(), nn.Linear(96, 2))
        self.ground = nn.Sequential(nn.Linear(2 * dim, 96), nn.GELU(), nn.Linear(96, 2))
        self.match = nn.Sequential(nn.Linear(2 * dim, 96), nn.GELU(), nn.Linear(96, 2 * len(MATCH_LEVELS_PX)))

    def masks(self, tokens: Tensor, h: int, w: int) -> Tensor:
        """(B, T, h*w, C) to logits (B, T, 7h, 7w)."""
        cells = self.mask(self.norm(tokens)).unflatten(-1, (CELLS, CELLS)).unflatten(2, (h, w))
        return cells.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)

    def flows(self, start: Tensor, end: Tensor) -> Tensor:
        """Motion (B, L, 2), in FLOW_SCALE_PX, of what lies at a token of one frame to another frame."""
        return self.flow(self._pair(start, end))

    def grounds(self, start: Tensor, end: Tensor) -> Tensor:
        """Motion (B, L, 2), in FLOW_SCALE_PX, of the backdrop at a token, whatever lies before it."""
        return self.ground(self._pair(start, end))

    def matches(self, start: Tensor, end: Tensor) -> Tensor:
        """Logits (B, L, 2, D) of the displacements MATCH_LEVELS_PX of what lies at a token, for x and y."""
        return self.match(self._pair(start, end)).unflatten(-1, (2, len(MATCH_LEVELS_PX)))

    def _pair(self, start: Tensor, end: Tensor) -> Tensor:
        return torch.cat((self.norm(start), self.norm(end)), dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Windows and their targets.

    `frames` (B, 5, 3, H, W) in [0, 1], `masks` and `weights` (B, 5, H/2, W/2), `flows` (B, 5, 5, L, 2) in
    pixels between all pairs of frames, and `grounds`, the same for the backdrop. For whole frames also the
    middle one as SAM2 sees it, `sam2` (B, 3, 256, 256) in [0, 1], with `fine_masks` and `fine_weights`
    (B, 128, 128) and `objects`, labels there (uint8); empty for crops. `motion` (B, 8) is that of each label.
    """

    frames: Tensor
    masks: Tensor
    weights: Tensor
    flows: Tensor
    grounds: Tensor
    flow_weights: Tensor
    cameras: Tensor
    sam2: Tensor
    fine_masks: Tensor
    fine_weights: Tensor
    objects: Tensor
    motion: Tensor


def all_tokens(pi3: Pi3Encoder, frames: Tensor, tables: Pi3Tables) -> Tensor:
    """The decoder's tokens of every frame, (B, 5, h*w, C); the network itself keeps the middle one's."""
    batch, window = frames.shape[:2]
    tokens = pi3.encode_frames(frames.flatten(0, 1), tables).flatten(1, 2).unflatten(0, (batch, window))
    registers = pi3.register_token.expand(batch, window, -1, -1)
    x = torch.cat((registers, tokens), dim=2)
    length, channels = x.shape[2:]
    for i, block in enumerate(pi3.decoder):
        if i % 2 == 0:
            x = block(x.reshape(batch * window, length, channels), tables.frame_rope)
        else:
            x = block(x.reshape(batch, window * length, channels), tables.window_rope)
    return x.reshape(batch, window, length, channels)[:, :, pi3.config.decoder_registers :]


class WindowSampler:
    """Draws windows from shards, with random crops, mirror images and colours; the seed decides all of it."""

    def __init__(self, pool: ShardPool, *, seed: int) -> None:
        self._pool = pool
        self.rng = np.random.default_rng(seed)

    def draw(
        self, size: int, grid_hw: tuple[int, int], camera_shares: tuple[float, float, float], shards: int
    ) -> Batch:
        """A batch of windows of that many tokens from the first so many shards."""
        items = [self._window(grid_hw, camera_shares, shards) for _ in range(size)]
        stacked = [torch.from_numpy(np.stack(values)) for values in zip(*items, strict=True)]
        frames, masks, weights, flows, flow_weights, cameras, sam2, *fine, motion = stacked
        fine_masks, fine_weights, objects = fine
        gain, shift = self._colours(size)
        return Batch(
            frames=_recolour(frames.permute(0, 1, 4, 2, 3), gain[:, None], shift[:, None]),
            sam2=_recolour(sam2.permute(0, 3, 1, 2), gain, shift),
            fine_masks=fine_masks.float(),
            fine_weights=fine_weights.float(),
            masks=masks.float(),
            weights=weights.float(),
            flows=flows[..., :2].float(),
            grounds=flows[..., 2:].float(),
            objects=objects,
            motion=motion.float(),
            flow_weights=flow_weights.float(),
            cameras=cameras,
        )

    def _colours(self, size: int) -> tuple[Tensor, Tensor]:
        """Gain and shift (B, 3, 1, 1) of each clip's channels."""
        shape = (size, 3, 1, 1)
        gain = torch.from_numpy(self.rng.uniform(0.8, 1.2, shape)).float()
        return gain, torch.from_numpy(self.rng.uniform(-0.1, 0.1, shape)).float()

    def _pick(self, camera_shares: tuple[float, float, float], shards: int) -> tuple[Shard, int]:
        wanted = int(self.rng.choice(3, p=camera_shares))
        while True:
            shard = self._pool.draw(self.rng, shards)
            clip = int(self.rng.integers(len(shard.camera)))
            if shard.camera[clip] == wanted:
                return shard, clip

    def _window(
        self, grid_hw: tuple[int, int], shares: tuple[float, float, float], shards: int
    ) -> tuple[np.ndarray, ...]:
        rng = self.rng
        shard, clip = self._pick(shares, shards)
        first = int(rng.integers(CLIP_FRAMES - WINDOW + 1))
        middle = first + WINDOW_REACH
        h, w = grid_hw
        height, width = h * PATCH_PX, w * PATCH_PX
        full_h, full_w = shard.pi3.shape[2:4]
        layers = np.asarray(shard.layers[clip, first : first + WINDOW])
        moved = np.asarray(shard.motion_px[clip, :, middle])
        top, left = self._corner(layers[WINDOW_REACH], moved, (full_h, full_w), (height, width))
        frames = np.asarray(shard.pi3[clip, first : first + WINDOW, top : top + height, left : left + width])
        rows = _nearest(top, height // 2, 2, full_h, layers.shape[1])
        columns = _nearest(left, width // 2, 2, full_w, layers.shape[2])
        seen = layers[:, rows][:, :, columns]
        sure = ~((moved > UNSURE_PX) & (moved <= MOVING_PX))
        weight = sure * np.where(shard.distractors[clip], np.float32(ALIKE_WEIGHT), np.float32(1))
        masks, weights = (moved > MOVING_PX)[seen], weight[seen]
        flows, known = self._flows(shard, clip, first, layers, corner=(top, left), grid_hw=grid_hw)
        whole = (height, width) == (full_h, full_w)
        sam2 = np.asarray(shard.sam2[clip, middle]) if whole else np.zeros((1, 1, 3), np.uint8)
        fine = layers[WINDOW_REACH] if whole else np.zeros((1, 1), np.uint8)
        if rng.random() < 0.5:
            sam2, fine = sam2[:, ::-1], fine[:, ::-1]
            frames, masks, weights = frames[:, :, ::-1], masks[:, :, ::-1], weights[:, :, ::-1]
            flows, known = (
                flows.reshape(WINDOW, WINDOW, h, w, 4)[:, :, :, ::-1] * (-1, 1, -1, 1),
                known.reshape(WINDOW, h, w)[:, :, ::-1],
            )
        if rng.random() < 0.5:
            sam2, fine = sam2[::-1], fine[::-1]
            frames, masks, weights = frames[:, ::-1], masks[:, ::-1], weights[:, ::-1]
            flows, known = (
                flows.reshape(WINDOW, WINDOW, h, w, 4)[:, :, ::-1] * (1, -1, 1, -1),
                known.reshape(WINDOW, h, w)[:, ::-1],
            )
        if h == w and rng.random() < 0.5:
            frames, masks, weights = frames.swapaxes(1, 2), masks.swapaxes(1, 2), weights.swapaxes(1, 2)
            flows = flows.reshape(WINDOW, WINDOW, h, w, 4).swapaxes(2, 3)[..., [1, 0, 3, 2]]
            known = known.reshape(WINDOW, h, w).swapaxes(1, 2)
        labels = np.asarray(shard.labels[clip])
        motion = np.zeros(MOST_OBJECTS, np.float32)
        np.maximum.at(motion, labels, np.where(labels > 0, moved, 0))
        channels = rng.permutation(3)
        frames, sam2 = frames[..., channels], sam2[..., channels]
        return (
            np.ascontiguousarray(frames),
            np.ascontiguousarray(masks),
            np.ascontiguousarray(weights),
            np.ascontiguousarray(flows.reshape(WINDOW, WINDOW, h * w, 4)),
            np.ascontiguousarray(known.reshape(WINDOW, h * w)),
            np.asarray(shard.camera[clip]),
            np.ascontiguousarray(sam2),
            (moved > MOVING_PX)[fine],
            weight[fine],
            labels[fine],
            motion,
        )

    def _corner(
        self, layers: np.ndarray, moved: np.ndarray, full: tuple[int, int], size: tuple[int, int]
    ) -> tuple[int, int]:
        """Where to crop: usually around something that moves."""
        free = (full[0] - size[0], full[1] - size[1])
        rows, columns = np.nonzero((moved > MOVING_PX)[layers])
        if len(rows) and self.rng.random() < 0.75 and max(free):
            pixel = int(self.rng.integers(len(rows)))
            y = rows[pixel] * full[0] / layers.shape[0] - self.rng.uniform(0.1, 0.9) * size[0]
            x = columns[pixel] * full[1] / layers.shape[1] - self.rng.uniform(0.1, 0.9) * size[1]
            return int(np.clip(y, 0, free[0])), int(np.clip(x, 0, free[1]))
        return int(self.rng.integers(free[0] + 1)), int(self.rng.integers(free[1] + 1))

    @staticmethod
    def _flows(
        shard: Shard,
        clip: int,
        first: int,
        layers: np.ndarray,
        *,
        corner: tuple[int, int],
        grid_hw: tuple[int, int],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Motion of token centres between all pairs of frames (5, 5, L, 4), and where it counts (5, L).

        The last two values are the motion of the backdrop there.
        """
        h, w = grid_hw
        y = corner[0] + (np.arange(h) + 0.5) * PATCH_PX
        x = corner[1] + (np.arange(w) + 0.5) * PATCH_PX
        points = np.stack(np.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
        full_h, full_w = shard.pi3.shape[2:4]
        scale = np.array([full_w, full_h]) / np.array(VIEW_WH)
        rows = (points[:, 1] * layers.shape[1] / full_h).astype(int)
        columns = (points[:, 0] * layers.shape[2] / full_w).astype(int)
        front = layers[:, rows, columns]
        flows = np.zeros((WINDOW, WINDOW, len(points), 4), np.float32)
        poses = np.asarray(shard.poses[clip], np.float64)
        targets = slice(first, first + WINDOW)
        for a in range(WINDOW):
            flows[a, ..., 2:] = layer_flow(poses[0, first + a], poses[0, targets], points / scale) * scale
            for layer in np.unique(front[a]):
                chosen = front[a] == layer
                places = points[chosen] / scale
                moved = layer_flow(poses[layer, first + a], poses[layer, targets], places)
                flows[a][:, chosen, :2] = moved * scale
        return flows, np.ones(front.shape, bool)


def _recolour(frames: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """8-bit frames to [0, 1], brighter or darker per channel."""
    return (frames.float() / 255 * gain + shift).clamp(0, 1)


def _nearest(start: int, count: int, step: int, full: int, stored: int) -> np.ndarray:
    return ((start + (np.arange(count) + 0.5) * step) * stored / full).astype(int)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Part of the curriculum: steps, batch, tokens, shares of static, slow and fast cameras."""

    steps: int
    batch: int
    grid_hw: tuple[int, int]
    shares: tuple[float, float, float]


CURRICULUM = (
    Phase(steps=500, batch=8, grid_hw=(6, 6), shares=(0.8, 0.2, 0.0)),
    Phase(steps=500, batch=8, grid_hw=(6, 6), shares=(0.4, 0.5, 0.1)),
    Phase(
        steps=100_000,
        batch=6,
        grid_hw=(PI3_WH[1] // PATCH_PX, PI3_WH[0] // PATCH_PX),
        shares=(0.45, 0.4, 0.15),
    ),
)


def phase_of(step: int) -> Phase:
    """The phase that a step belongs to."""
    for phase in CURRICULUM:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return CURRICULUM[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraTargets:
    """Weights of the auxiliary targets that camera motion is learned by; 0 leaves one out.

    `ground` is the motion of the backdrop at every token, which a homography gives; `match` tells between
    which displacements of MATCH_LEVELS_PX a token went, as a correlation over them would.
    """

    ground: float = 0.0
    match: float = 0.0


def match_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of displacements (B, L, 2) in pixels, each shared by the two levels that it lies between.

    Args:
        logits: (B, L, 2, D) of MATCH_LEVELS_PX.
        target: (B, L, 2) in pixels; beyond the levels the last one is meant.
        weight: (B, L), 0 where a token does not count.
    """
    levels = target.new_tensor(MATCH_LEVELS_PX)
    inside = target.contiguous().clamp(float(levels[0]), float(levels[-1]))
    above = torch.searchsorted(levels, inside).clamp(1, len(levels) - 1)
    share = (inside - levels[above - 1]) / (levels[above] - levels[above - 1])
    logs = logits.log_softmax(-1)
    low, high = (logs.gather(-1, index[..., None])[..., 0] for index in (above - 1, above))
    each = -((1 - share) * low + share * high).sum(-1)
    return (each * weight).sum() / weight.sum().clamp(min=1)


def total_loss(
    heads: TokenHeads,
    tokens: Tensor,
    batch: Batch,
    grid_hw: tuple[int, int],
    rng: np.random.Generator,
    *,
    camera: CameraTargets,
) -> tuple[Tensor, dict[str, float]]:
    """Mask loss of every frame, the middle one twice, plus the targets of three random pairs of frames."""
    logits = heads.masks(tokens, *grid_hw)
    each = mask_loss(logits, batch.masks, batch.weights)
    masks = (each.mean() + each[:, WINDOW_REACH].mean()) / 2
    flows, grounds, matches = [], [], []
    for _ in range(3):
        a, b = rng.choice(WINDOW, 2, replace=False)
        target = batch.flows[:, a, b]
        # Beyond two tokens nothing can be matched in a crop.
        weight = batch.flow_weights[:, a] * (target.abs().amax(-1) < 2 * PATCH_PX)
        pair = tokens[:, a], tokens[:, b]
        flows.append(flow_loss(heads.flows(*pair), target, weight, FLOW_SCALE_PX))
        if camera.ground:
            behind = batch.grounds[:, a, b]
            near = (behind.abs().amax(-1) < 2 * PATCH_PX).float()
            grounds.append(flow_loss(heads.grounds(*pair), behind, near, FLOW_SCALE_PX))
        if camera.match:
            matches.append(match_loss(heads.matches(*pair), target, weight))
    flow = torch.stack(flows).mean()
    middle = logits[:, WINDOW_REACH].detach()
    iou = soft_iou(middle, batch.masks[:, WINDOW_REACH])
    nonempty = batch.masks[:, WINDOW_REACH].sum((-1, -2)) > 0
    numbers = {"mask": float(masks.detach()), "flow": float(flow.detach())}
    for index, name in enumerate(CAMERAS):
        chosen = nonempty & (batch.cameras == index)
        if chosen.any():
            numbers[f"J {name}"] = float(iou[chosen].mean())
    loss = masks + 0.5 * flow
    for name, found, share in (("ground", grounds, camera.ground), ("match", matches, camera.match)):
        if found:
            mean = torch.stack(found).mean()
            loss = loss + share * mean
            numbers[name] = float(mean.detach())
    return loss, numbers


def add_camera_options(parser: argparse.ArgumentParser) -> None:
    """The weights of `CameraTargets`."""
    parser.add_argument(
        "--ground", type=float, default=0.0, help="weight of the backdrop's motion as a target (default: 0)"
    )
    parser.add_argument(
        "--match",
        type=float,
        default=0.0,
        help="weight of the displacement among several levels as a target (default: 0)",
    )


def camera_targets(options: argparse.Namespace) -> CameraTargets:
    """What `add_camera_options` got."""
    return CameraTargets(ground=options.ground, match=options.match)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train until the given step."""
    parser = option_parser(__doc__, steps=4000, decay_from=3000)
    add_camera_options(parser)
    options = parser.parse_args(arguments)
    device = training_device(options)
    torch.manual_seed(options.seed)
    pi3 = Pi3Encoder(preset("nano").pi3)
    heads = TokenHeads(pi3.config.dim)
    initialise_pi3(pi3, options.seed)
    pi3.to(device)
    heads.to(device)
    parameters = [*pi3.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    loop = TrainingLoop(options, {"pi3": pi3, "heads": heads}, [optimiser], rates=(PEAK_RATE,), warm_up=150)
    tables: dict[tuple[int, int], Pi3Tables] = {}
    sampler = WindowSampler(shard_pool(options), seed=0)
    for step in loop.remaining():
        phase = phase_of(step)
        # One generator per step: a resumed run draws what an uninterrupted one would have drawn.
        sampler.rng = np.random.default_rng((options.seed, step))
        grid = phase.grid_hw
        if grid not in tables:
            tables[grid] = pi3.tables(*grid)
        batch = sampler.draw(phase.batch, grid, phase.shares, shards=8 + step // 20)
        batch = on_device(batch, device)
        tokens = all_tokens(pi3, batch.frames, tables[grid])
        loss, numbers = total_loss(heads, tokens, batch, grid, sampler.rng, camera=camera_targets(options))
        loop.take(loss, numbers)


if __name__ == "__main__":
    main()
