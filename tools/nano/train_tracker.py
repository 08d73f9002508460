"""Trains the nano SAM2: image encoder and memory tracker, following objects from a perfect or rough first mask."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from clips import CLIP_FRAMES, Shard
from initial_weights import initialise_tracker
from losses import dice_loss, soft_iou
from torch import Tensor
from training_loop import (
    ChangeGradients,
    TrainingLoop,
    add_worker_options,
    on_device,
    option_parser,
    shard_pool,
    training_device,
    workers,
)

from gmos_deploy.gmos_ref.pi3.encoder import IMAGENET_MEAN, IMAGENET_STD
from gmos_deploy.gmos_ref.presets import preset
from gmos_deploy.gmos_ref.sam2.model import FeaturePredictor, build_sam2

MIN_AREA = 60
"""Pixels (of 128 x 128) that an object must show in the first frame to be followed."""

MAX_OBJECTS = 3
ROUGH_CELL = 8
"""Side in pixels of the cells whose errors a rough prompt has: a token of GMOS-S."""

PAUSE_SHARE, LONGEST_PAUSE = 0.12, 5
"""Of the steps of a walk, how many begin a pause, and its frames at most."""

LOGIT_FLOOR = -15.0
"""Masks of objects that the tracker takes for hidden are -1024: enough of a lesson at this."""


ENCODER_PREFIXES = (
    "image_encoder.",
    "sam_mask_decoder.conv_s0.",
    "sam_mask_decoder.conv_s1.",
    "no_mem_embed",
)
"""What GMOS-S and the proposer read of SAM2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackBatch:
    """A few objects over T frames.

    `images` (N, 3, 256, 256) normalised, and `order`, which of them each frame shows; `masks` (O, T, 128, 128) and
    `prompts` (O, 1, 128, 128) in {0, 1}.
    """

    images: Tensor
    order: list[int]
    masks: Tensor
    prompts: Tensor


def normalise(frames: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] to ImageNet statistics."""
    mean, std = (frames.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (frames - mean) / std


def instances(labels: np.ndarray, distractors: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Instance numbers of layer indices: objects by label, each look-alike by itself, 0 elsewhere."""
    table = labels.astype(np.int64)
    table[distractors] = 100 + np.flatnonzero(distractors)
    return table[layers]


def rough_prompts(masks: Tensor, rng: np.random.Generator) -> Tensor:
    """Masks (O, 1, H, W) with the faults of proposals: coarse outlines, halos, missing and added pieces."""
    share = F.avg_pool2d(masks, ROUGH_CELL)
    near = F.max_pool2d(share, 3, stride=1, padding=1) > 0
    wrong = torch.from_numpy(rng.normal(0, 0.25, share.shape)).float() * near
    smooth = F.interpolate(share + wrong, size=masks.shape[-2:], mode="bilinear", align_corners=False)
    rough = (smooth > float(rng.uniform(0.25, 0.6))).float()
    lost = (rough * masks).sum((-1, -2), keepdim=True) < 0.4 * masks.sum((-1, -2), keepdim=True)
    return torch.where(lost, masks, rough)


def time_order(length: int, frames: int, rng: np.random.Generator, *, walk: bool = False) -> np.ndarray:
    """So many frames of a clip one after another, forward or backward; or a walk with turns and pauses.

    A walk also follows more frames than the clip has. Long ways are where the tracker drifts off, stops and
    starts are where it lags.
    """
    if not walk and frames <= length:
        first = int(rng.integers(length - frames + 1))
        order = np.arange(first, first + frames)
        return order[::-1] if rng.random() < 0.5 else order
    place, heading = int(rng.integers(length)), int(rng.choice((-1, 1)))
    steps = [place]
    while len(steps) < frames:
        if rng.random() < PAUSE_SHARE:
            steps += [place] * int(rng.integers(1, LONGEST_PAUSE + 1))
        if not 0 <= place + heading < length:
            heading = -heading
        place += heading
        steps.append(place)
    return np.array(steps[:frames])


def draw_track(
    shard: Shard,
    clip: int,
    frames: int,
    rng: np.random.Generator,
    *,
    rough: bool = False,
    walk: bool = False,
) -> TrackBatch | None:
    """Some objects of a clip in a `time_order`; None where none is large enough."""
    order = time_order(shard.layers.shape[1], frames, rng, walk=walk)
    numbers = instances(shard.labels[clip], shard.distractors[clip], np.asarray(shard.layers[clip])[order])
    found, areas = np.unique(numbers[0], return_counts=True)
    chosen = found[(found > 0) & (areas >= MIN_AREA)]
    if not len(chosen):
        return None
    chosen = rng.permutation(chosen)[:MAX_OBJECTS]
    masks = np.stack([numbers == number for number in chosen])
    shown, order = np.unique(order, return_inverse=True)
    images = np.asarray(shard.sam2[clip])[shown]
    if rng.random() < 0.5:
        images, masks = images[:, :, ::-1], masks[..., ::-1]
    if rng.random() < 0.5:
        images, masks = images[:, ::-1], masks[:, :, ::-1]
    images = images[..., rng.permutation(3)]
    frames01 = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    frames01 = (frames01 * float(rng.uniform(0.8, 1.2)) + float(rng.uniform(-0.1, 0.1))).clamp(0, 1)
    followed = torch.from_numpy(np.ascontiguousarray(masks)).float()
    prompts = rough_prompts(followed[:, :1], rng) if rough else followed[:, :1]
    return TrackBatch(images=normalise(frames01), order=order.tolist(), masks=followed, prompts=prompts)


def track(sam2: FeaturePredictor, batch: TrackBatch) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Follow the objects, with gradients.

    Yields:
        Frame index from 1, the candidates' mask logits (O, 3, 64, 64), their predicted IoUs (O, 3), and
        the object-score logits (O, 1).
    """
    objects, frames = batch.masks.shape[:2]
    backbone = sam2.forward_image(batch.images)
    _, features, positions, sizes = sam2._prepare_backbone_features(backbone)
    outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    for t, shown in enumerate(batch.order):
        here = [level[:, shown : shown + 1].expand(-1, objects, -1) for level in features]
        places = [level[:, shown : shown + 1].expand(-1, objects, -1) for level in positions]
        prompt = F.interpolate(batch.prompts, scale_factor=2.0, mode="nearest") if t == 0 else None
        current, answer, _, _ = sam2._track_step(
            t, t == 0, here, places, sizes, None, prompt, outputs, frames, False, None
        )
        candidates, _, ious, low, high, pointer, score = answer
        current |= {
            "pred_masks": low,
            "pred_masks_high_res": high,
            "obj_ptr": pointer,
            "object_score_logits": score,
        }
        sam2._encode_memory_in_output(here, sizes, None, True, high, score, current)
        outputs["cond_frame_outputs" if t == 0 else "non_cond_frame_outputs"][t] = current
        if t > 0:
            yield t, candidates, ious, score


def tracking_loss(sam2: FeaturePredictor, batch: TrackBatch) -> tuple[Tensor, dict[str, float]]:
    """Mask, IoU and object-score losses over the followed frames, and the mean J of the masks kept."""
    losses, scores = [], []
    for t, candidates, ious, score in track(sam2, batch):
        target = F.avg_pool2d(batch.masks[:, t : t + 1], 2)
        visible = target.amax((-1, -2)) > 0
        logits = candidates.clamp(min=LOGIT_FLOOR)
        wide = target.expand_as(logits)
        each = F.binary_cross_entropy_with_logits(logits, wide, reduction="none").mean((-1, -2)) * 4
        each = each + dice_loss(logits, wide)
        each = each * visible
        masks = 0.7 * each.amin(dim=1).mean() + 0.3 * each.mean()
        actual = soft_iou(candidates.detach(), wide)
        iou = F.l1_loss(ious, actual)
        appears = F.binary_cross_entropy_with_logits(score, visible.float())
        losses.append(masks + iou + 0.3 * appears)
        kept = actual.gather(1, ious.argmax(dim=1, keepdim=True))
        scores.append(kept[visible])
    j = torch.cat(scores)
    return torch.stack(losses).mean(), {"J": float(j.mean()) if len(j) else 1.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train until the given step."""
    parser = option_parser(__doc__, steps=4000, decay_from=3000)
    parser.add_argument(
        "--long_from", type=int, default=1500, help="step from which whole clips are followed (default: 1500)"
    )
    parser.add_argument(
        "--freeze_encoder_from",
        type=int,
        default=None,
        help="step from which the image encoder stays as it is (default: never)",
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        help="state of train_gmos_s.py with --tune_sam2: use its image encoder and keep it",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=CLIP_FRAMES,
        help="frames to follow from --long_from on; more than a clip has make walks (default: %(default)s)",
    )
    parser.add_argument(
        "--walks",
        type=float,
        default=0.0,
        help="share of steps on a walk, with turns and pauses (default: 0)",
    )
    parser.add_argument(
        "--rough", type=float, default=0.0, help="share of steps whose first masks are rough (default: 0)"
    )
    add_worker_options(parser)
    options = parser.parse_args(arguments)
    with workers(options) as share:
        train(options, share)


def train(options: argparse.Namespace, share: ChangeGradients | None) -> None:
    """Take the steps still to do; `share` is what `workers` gives."""
    device = training_device(options)
    torch.manual_seed(options.seed)
    sam2 = build_sam2(preset("nano").sam2).requires_grad_(True)
    initialise_tracker(sam2)
    sam2.to(device)
    optimiser = torch.optim.AdamW(sam2.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    loop = TrainingLoop(
        options, {"sam2": sam2}, [optimiser], rates=(6e-4,), warm_up=150, saves=options.rank == 0
    )
    if options.encoder is not None:
        taken = torch.load(options.encoder, weights_only=True)["sam2"]
        found = {key: value for key, value in taken.items() if key.startswith(ENCODER_PREFIXES)}
        sam2.load_state_dict(found, strict=False)
        freeze_encoder(sam2)
    pool = shard_pool(options)
    for step in loop.remaining():
        rng = np.random.default_rng((options.seed, 1, step, options.rank))
        if options.freeze_encoder_from is not None and step >= options.freeze_encoder_from:
            freeze_encoder(sam2)
        frames = 4 if step < options.long_from else options.frames
        batch = None
        while batch is None:
            shard = pool.draw(rng, 8 + step // 20)
            clip = int(rng.integers(len(shard.camera)))
            rough = options.rough > 0 and rng.random() < options.rough
            walk = options.walks > 0 and rng.random() < options.walks
            batch = draw_track(shard, clip, frames, rng, rough=rough, walk=walk)
        loss, numbers = tracking_loss(sam2, on_device(batch, device))
        loop.take(loss, numbers | {"loss": float(loss.detach())}, share)


def freeze_encoder(sam2: FeaturePredictor) -> None:
    """Leave alone what the proposers read: the image encoder and its two finer maps."""
    for name, parameter in sam2.named_parameters():
        if name.startswith(ENCODER_PREFIXES):
            parameter.requires_grad_(False)
            parameter.grad = None


if __name__ == "__main__":
    main()
