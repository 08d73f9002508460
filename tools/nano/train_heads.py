"""Trains GMOS-S, or the proposer from it, on the features of the trained encoders, which stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from clips import CLIP_FRAMES, PI3_WH, Shard, ShardPool
from losses import mask_loss, soft_iou
from query_matching import frame_loss
from scenes import CAMERAS, WINDOW_REACH
from torch import Tensor
from train_pi3 import MOVING_PX, UNSURE_PX
from train_tracker import normalise
from training_loop import TrainingLoop, option_parser, shard_pool, training_device

from gmos_deploy.gmos_ref.gmos.gmos_s import GmosS
from gmos_deploy.gmos_ref.gmos.proposer import GmosProposer, Proposals
from gmos_deploy.gmos_ref.pi3.encoder import Pi3Encoder
from gmos_deploy.gmos_ref.presets import preset
from gmos_deploy.gmos_ref.sam2.model import FeaturePredictor, build_sam2

BATCH = 8
FRESH = 2
"""Windows of a batch that are new; the others were seen before and their features are kept."""

KEPT_WINDOWS = 6000
MIN_AREA = 24
"""Pixels (of 128 x 128) that an object must show to be a target."""

SHARED_PARTS = ("pi3_projector.", "sam_projector.", "merge_projector.", "trans_encoder.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Features of a window (half precision) and its middle frame's objects (128, 128), their motion in pixels."""

    geometry: Tensor
    features: Tensor
    s0: Tensor
    s1: Tensor
    objects: Tensor
    motion: dict[int, float]
    camera: int


class Encoders:
    """The frozen encoders."""

    def __init__(self, pi3: Pi3Encoder, sam2: FeaturePredictor) -> None:
        self._pi3, self._sam2 = pi3.eval(), sam2.eval()
        self._device = pi3.register_token.device
        patch = preset("nano").pi3.patch_px
        self._tables = pi3.tables(PI3_WH[1] // patch, PI3_WH[0] // patch)

    @torch.no_grad()
    def window(self, shard: Shard, clip: int, middle: int, rng: np.random.Generator) -> Window:
        """Encode a window, mirrored and recoloured at random."""
        flips = [axis for axis in (1, 2) if rng.random() < 0.5]
        channels = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
        gain, shift = float(rng.uniform(0.85, 1.15)), float(rng.uniform(-0.08, 0.08))

        def prepared(frames: np.ndarray) -> Tensor:
            turned = np.ascontiguousarray(np.flip(frames, flips)[..., channels])
            pixels = torch.from_numpy(turned).to(self._device).permute(0, 3, 1, 2)
            return (pixels.float() / 255 * gain + shift).clamp(0, 1)

        reach = slice(middle - WINDOW_REACH, middle + WINDOW_REACH + 1)
        geometry = self._pi3(prepared(np.asarray(shard.pi3[clip, reach]))[None], self._tables)
        maps = self._sam2.encode_image(normalise(prepared(np.asarray(shard.sam2[clip, middle : middle + 1]))))
        layers = np.flip(np.asarray(shard.layers[clip, middle : middle + 1]), flips)[0]
        labels = np.asarray(shard.labels[clip])
        moved = np.asarray(shard.motion_px[clip, :, middle])
        return Window(
            geometry=geometry[0].half(),
            features=(maps["f"] + self._sam2.no_mem_embed.reshape(1, -1, 1, 1))[0].half(),
            s0=maps["s0"][0].half(),
            s1=maps["s1"][0].half(),
            objects=torch.from_numpy(np.ascontiguousarray(labels[layers])).to(self._device),
            motion={int(label): float(moved[labels == label].max()) for label in np.unique(labels) if label},
            camera=int(shard.camera[clip]),
        )


class Replay:
    """Windows in random order: some are encoded anew, the others come from those kept."""

    def __init__(self, pool: ShardPool, encoders: Encoders) -> None:
        self._pool, self._encoders = pool, encoders
        self._kept: list[Window] = []

    def draw(self, rng: np.random.Generator) -> list[Window]:
        """A batch."""
        fresh = [self._encode(rng) for _ in range(FRESH)]
        while len(self._kept) < BATCH - FRESH:
            self._kept.append(self._encode(rng))
        old = [self._kept[i] for i in rng.choice(len(self._kept), BATCH - FRESH, replace=False)]
        if len(self._kept) + FRESH > KEPT_WINDOWS:
            for window in fresh:
                self._kept[int(rng.integers(len(self._kept)))] = window
        else:
            self._kept += fresh
        return fresh + old

    def _encode(self, rng: np.random.Generator) -> Window:
        shard = self._pool.draw(rng)
        clip = int(rng.integers(len(shard.camera)))
        middle = int(rng.integers(WINDOW_REACH, CLIP_FRAMES - WINDOW_REACH))
        return self._encoders.window(shard, clip, middle, rng)


def head_inputs(windows: list[Window]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """geometry, features, s0, s1 of a batch in float32."""
    parts = zip(*((w.geometry, w.features, w.s0, w.s1) for w in windows), strict=True)
    geometry, features, s0, s1 = (torch.stack(part).float() for part in parts)
    return geometry, features, s0, s1


def foreground_loss(head: GmosS, windows: list[Window]) -> tuple[Tensor, dict[str, float]]:
    """Mask, IoU and confidence loss of GMOS-S, at twice the size of its map."""
    out = head(*head_inputs(windows))
    logits = F.interpolate(out.foreground_logits, scale_factor=2.0, mode="bilinear", align_corners=False)[
        :, 0
    ]
    target, weight = torch.zeros_like(logits), torch.ones_like(logits)
    for index, window in enumerate(windows):
        for label, moved in window.motion.items():
            where = window.objects == label
            if moved > MOVING_PX:
                target[index][where] = 1
            elif moved > UNSURE_PX:
                weight[index][where] = 0
    iou = soft_iou(logits.detach() - 1e4 * (1 - weight), target)
    loss = mask_loss(logits, target, weight).mean() + 0.3 * (out.ious[:, 0] - iou).abs().mean()
    loss = loss + 0.05 * (out.confidences[:, 0] - 1 - 4 * iou).abs().mean()
    numbers: dict[str, float] = {}
    filled = target.sum((-1, -2)) > 0
    for camera, name in enumerate(CAMERAS):
        chosen = filled & filled.new_tensor([w.camera == camera for w in windows])
        if chosen.any():
            numbers[f"J {name}"] = float(iou[chosen].mean())
    return loss, numbers


def query_loss(head: GmosProposer, windows: list[Window]) -> tuple[Tensor, dict[str, float]]:
    """Matching loss of the proposer, at the size of its masks."""
    objects = torch.stack([window.objects for window in windows])
    cameras = [window.camera for window in windows]
    return proposals_loss(head(*head_inputs(windows)), objects, [w.motion for w in windows], cameras)


def proposals_loss(
    out: Proposals, objects: Tensor, motions: Sequence[dict[int, float]], cameras: Sequence[int]
) -> tuple[Tensor, dict[str, float]]:
    """Matching loss of proposals.

    Args:
        out: of a batch.
        objects: (B, 128, 128) labels of objects.
        motions: in pixels, of the labels of each frame.
        cameras: index in CAMERAS of each frame.
    """
    losses: list[Tensor] = []
    ious: dict[str, list[float]] = {name: [] for name in CAMERAS}
    for index, motion in enumerate(motions):
        masks, certain = [], []
        for label, moved in motion.items():
            where = (objects[index] == label).float()
            if moved > UNSURE_PX and where.sum() >= MIN_AREA:
                masks.append(F.avg_pool2d(where[None, None], 2)[0, 0])
                certain.append(moved > MOVING_PX)
        size = out.mask_logits.shape[-2:]
        targets = torch.stack(masks) if masks else out.mask_logits.new_zeros(0, *size)
        sure = torch.tensor(certain, dtype=torch.bool, device=targets.device)
        loss, found = frame_loss(out, index, targets, sure)
        losses.append(loss)
        ious[CAMERAS[cameras[index]]] += found
    numbers = {f"IoU {name}": float(np.mean(values)) for name, values in ious.items() if values}
    return torch.stack(losses).mean(), numbers


def proposer_from(gmos_s: GmosS, seed: int) -> GmosProposer:
    """A proposer that starts from the parts of a trained GMOS-S with the same layout."""
    head = GmosProposer(preset("nano").proposer)
    head.obj_token.data.normal_(0, 1.0, generator=torch.Generator().manual_seed(seed))
    state = gmos_s.state_dict()
    shared = {key: value for key, value in state.items() if key.startswith(SHARED_PARTS)}
    upscaling = {
        key.replace("fg_upscaling.", "upsampling.output_upscaling."): value
        for key, value in state.items()
        if key.startswith("fg_upscaling.")
    }
    head.load_state_dict(shared | upscaling, strict=False)
    return head


def main(arguments: Sequence[str] | None = None) -> None:
    """Train until the given step."""
    parser = option_parser(__doc__, steps=3000, decay_from=1500)
    parser.add_argument("--pi3", type=Path, required=True, help="state of train_pi3.py")
    parser.add_argument("--tracker", type=Path, required=True, help="state of train_tracker.py")
    parser.add_argument(
        "--gmos_s", type=Path, help="state of this script for GMOS-S: train the proposer from it"
    )
    options = parser.parse_args(arguments)
    device = training_device(options)
    torch.manual_seed(options.seed)
    sizes = preset("nano")
    pi3, sam2 = Pi3Encoder(sizes.pi3), build_sam2(sizes.sam2)
    pi3.load_state_dict(torch.load(options.pi3, weights_only=True)["pi3"])
    sam2.load_state_dict(torch.load(options.tracker, weights_only=True)["sam2"])
    head: GmosS | GmosProposer = GmosS(sizes.proposer)
    if options.gmos_s is not None:
        head.load_state_dict(torch.load(options.gmos_s, weights_only=True)["head"])
        head = proposer_from(head, options.seed)
    for network in (pi3, sam2, head):
        network.to(device)
    replay = Replay(shard_pool(options), Encoders(pi3, sam2))
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    loop = TrainingLoop(options, {"head": head}, [optimiser], rates=(8e-4,), warm_up=100)
    for step in loop.remaining():
        windows = replay.draw(np.random.default_rng((options.seed, 2, step)))
        loss, numbers = (
            foreground_loss(head, windows) if isinstance(head, GmosS) else query_loss(head, windows)
        )
        loop.take(loss, numbers | {"loss": float(loss.detach())})


if __name__ == "__main__":
    main()
