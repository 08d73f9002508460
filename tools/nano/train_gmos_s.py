"""Trains GMOS-S together with the Pi3 encoder on whole frames; and SAM2's image encoder if asked to.

Continues from train_pi3.py and train_tracker.py. The auxiliary losses of train_pi3.py go on with less weight.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from clips import PI3_WH
from losses import mask_loss, soft_iou
from scenes import CAMERAS, WINDOW_REACH
from torch import Tensor, nn
from train_heads import proposals_loss
from train_pi3 import (
    PATCH_PX,
    Batch,
    TokenHeads,
    WindowSampler,
    add_camera_options,
    all_tokens,
    camera_targets,
    total_loss,
)
from train_tracker import normalise
from training_loop import (
    ChangeGradients,
    TrainingLoop,
    add_worker_options,
    is_hidden_matrix,
    on_device,
    option_parser,
    shard_pool,
    training_device,
    workers,
)

from gmos_deploy.gmos_ref.gmos.gmos_s import GmosS
from gmos_deploy.gmos_ref.gmos.proposer import GmosProposer
from gmos_deploy.gmos_ref.pi3.encoder import Pi3Encoder
from gmos_deploy.gmos_ref.presets import preset
from gmos_deploy.gmos_ref.sam2.model import FeaturePredictor, build_sam2

GRID_HW = (PI3_WH[1] // PATCH_PX, PI3_WH[0] // PATCH_PX)
SHARES = (0.45, 0.4, 0.15)
"""Of static, slow and fast cameras."""

AUXILIARY_WEIGHT = 0.5
DICE_WEIGHT = 1.0
QUERY_WEIGHT = 0.3

MANY_SHARDS = 1_000_000
"""All that there are."""

PEAK_RATES = (7e-4, 1e-3, 6e-4, 1e-3)
"""Learning rates of the Pi3 encoder, the head, SAM2's image encoder, and of Muon for the matrices of the first two.

Muon (Keller Jordan, 2024) takes steps of equal length in all directions of a matrix; scaled to the size of
AdamW's steps (arXiv 2502.16982) its rates are of AdamW's order.
"""


HeadInputs: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


def head_inputs(sam2: FeaturePredictor, tokens: Tensor, batch: Batch) -> HeadInputs:
    """What both heads read of the middle frames: geometry, features, s0 and s1."""
    maps = sam2.encode_image(normalise(batch.sam2))
    features = maps["f"] + sam2.no_mem_embed.reshape(1, -1, 1, 1)
    return tokens[:, WINDOW_REACH].unflatten(1, GRID_HW), features, maps["s0"], maps["s1"]


def proposer_loss(
    proposer: GmosProposer, inputs: HeadInputs, batch: Batch
) -> tuple[Tensor, dict[str, float]]:
    """Matching loss of the proposer on the middle frames."""
    motions = [
        {label: float(row[label]) for label in np.unique(objects.cpu().numpy()).tolist() if label}
        for objects, row in zip(batch.objects, batch.motion.tolist(), strict=True)
    ]
    loss, numbers = proposals_loss(proposer(*inputs), batch.objects, motions, batch.cameras.tolist())
    return loss, numbers | {"queries": float(loss.detach())}


def head_loss(head: GmosS, inputs: HeadInputs, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Loss of the map of the middle frame at twice its size, of the predicted IoU and of the confidence."""
    out = head(*inputs)
    logits = F.interpolate(out.foreground_logits, scale_factor=2.0, mode="bilinear", align_corners=False)[
        :, 0
    ]
    iou = soft_iou(logits.detach() - 1e4 * (batch.fine_weights == 0), batch.fine_masks)
    loss = mask_loss(logits, batch.fine_masks, batch.fine_weights, dice_weight=DICE_WEIGHT).mean()
    loss = (
        loss
        + 0.2 * (out.ious[:, 0] - iou).abs().mean()
        + 0.03 * (out.confidences[:, 0] - 1 - 4 * iou).abs().mean()
    )
    numbers = {"loss": float(loss.detach())}
    filled = batch.fine_masks.sum((-1, -2)) > 0
    for camera, name in enumerate(CAMERAS):
        chosen = filled & (batch.cameras == camera)
        if chosen.any():
            numbers[f"head J {name}"] = float(iou[chosen].mean())
    return loss, numbers


def encoder_parameters(sam2: FeaturePredictor) -> Iterator[nn.Parameter]:
    """What the heads read of SAM2: the image encoder and its two finer maps."""
    for part in (sam2.image_encoder, sam2.sam_mask_decoder.conv_s0, sam2.sam_mask_decoder.conv_s1):
        yield from part.parameters()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train until the given step."""
    parser = option_parser(__doc__, steps=2500, decay_from=1200)
    parser.add_argument(
        "--pi3", type=Path, help="state of train_pi3.py to start from (default: what --start has)"
    )
    parser.add_argument(
        "--tracker",
        type=Path,
        help="state of train_tracker.py, whose encoder stays (default: what --start has)",
    )
    parser.add_argument(
        "--proposer",
        action="store_true",
        help="train the proposer too, from what --start has of it (default: train_heads.py does, afterwards)",
    )
    parser.add_argument(
        "--shares",
        type=float,
        nargs=3,
        default=SHARES,
        metavar=("STATIC", "SLOW", "FAST"),
        help="of the kinds of cameras (default: %(default)s)",
    )
    add_camera_options(parser)
    parser.add_argument("--batch", type=int, default=5, help="windows per step (default: 5)")
    parser.add_argument(
        "--tune_sam2",
        action="store_true",
        help="train SAM2's image encoder too; train_tracker.py then goes on from here (default: it stays)",
    )
    add_worker_options(parser)
    options = parser.parse_args(arguments)
    with workers(options) as share:
        train(options, share)


def train(options: argparse.Namespace, share: ChangeGradients | None) -> None:
    """Take the steps still to do; `share` is what `workers` gives."""
    device = training_device(options)
    torch.manual_seed(options.seed)
    sizes = preset("nano")
    pi3, heads, head = Pi3Encoder(sizes.pi3), TokenHeads(sizes.pi3.dim), GmosS(sizes.proposer)
    sam2 = build_sam2(sizes.sam2)
    if options.tracker is not None:
        sam2.load_state_dict(torch.load(options.tracker, weights_only=True)["sam2"])
    if options.pi3 is not None:
        started_from = torch.load(options.pi3, weights_only=True)
        pi3.load_state_dict(started_from["pi3"])
        # States from before there were further auxiliary heads lack these.
        heads.load_state_dict(started_from["heads"], strict=False)
    proposer = GmosProposer(sizes.proposer) if options.proposer else None
    modules = {"pi3": pi3, "heads": heads, "head": head, "sam2": sam2}
    if proposer is not None:
        modules["proposer"] = proposer
    for network in modules.values():
        network.to(device)
    image_encoder = list(encoder_parameters(sam2)) if options.tune_sam2 else []
    for parameter in image_encoder:
        parameter.requires_grad_(True)
    trained_heads = [*head.parameters(), *(proposer.parameters() if proposer is not None else ())]
    matrices = [p for p in (*pi3.parameters(), *trained_heads) if is_hidden_matrix(p)]
    adamw = torch.optim.AdamW(
        [
            {"params": [*(p for p in pi3.parameters() if not is_hidden_matrix(p)), *heads.parameters()]},
            {"params": [p for p in trained_heads if not is_hidden_matrix(p)]},
            {"params": image_encoder},
        ],
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    muon = torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    loop = TrainingLoop(
        options,
        modules,
        [adamw, muon],
        rates=PEAK_RATES,
        warm_up=50,
        marks={"tune_sam2": options.tune_sam2},
        saves=options.rank == 0,
    )
    tables = pi3.tables(*GRID_HW)
    sampler = WindowSampler(shard_pool(options), seed=0)
    for step in loop.remaining():
        sampler.rng = np.random.default_rng((options.seed, 3, step, options.rank))
        batch = sampler.draw(options.batch, GRID_HW, tuple(options.shares), shards=MANY_SHARDS)
        batch = on_device(batch, device)
        tokens = all_tokens(pi3, batch.frames, tables)
        auxiliary, numbers = total_loss(
            heads, tokens, batch, GRID_HW, sampler.rng, camera=camera_targets(options)
        )
        inputs = head_inputs(sam2, tokens, batch)
        loss, more = head_loss(head, inputs, batch)
        loss, numbers = loss + AUXILIARY_WEIGHT * auxiliary, numbers | more
        if proposer is not None:
            queries, more = proposer_loss(proposer, inputs, batch)
            loss, numbers = loss + QUERY_WEIGHT * queries, numbers | more
        loop.take(loss, numbers, share)


if __name__ == "__main__":
    main()
