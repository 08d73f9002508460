"""The small networks between the large ones, against the published implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gmos_deploy.gmos_ref.gmos.proposer import Proposals as ProposerOutput
from gmos_deploy.gmos_ref.networks import Sam2Resize, foreground_map, keep_best, proposal_labels
from gmos_deploy.runtime.pipeline.proposals import ProposalCollector

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5
"""Absolute, and relative to the standard deviation: float32 sums in another order."""


def test_sam2_input_equals_the_published_one() -> None:
    """A small frame is enlarged and normalised."""
    with np.load(GOLDEN / "preprocess.npz") as golden:
        frame, expected = golden["frames"][2:3], golden["sam2_strided"]
    found = Sam2Resize(1024)(torch.from_numpy(frame))[0, :, ::16, ::16].numpy()
    assert np.abs(found - expected).max() <= TOLERANCE * (1 + expected.std())


def test_sam2_downsampling_is_antialiased_as_published() -> None:
    """A full-HD frame of noise, where antialiasing decides every value."""
    generator = np.random.default_rng(51)
    generator.standard_normal((8, 3, 256, 256), dtype=np.float32)
    frame = generator.integers(0, 255, (1080, 1920, 3), dtype=np.uint8)
    with np.load(GOLDEN / "sam2_downsample.npz") as golden:
        expected = golden["sam2_strided"]
    found = Sam2Resize(1024)(torch.from_numpy(frame)[None])[0, :, ::16, ::16].numpy()
    assert np.abs(found - expected).max() <= TOLERANCE * (1 + expected.std())


def test_proposals_equal_the_published_reduction() -> None:
    """Best queries, resize, arg-max, dropped slots and moved scores, from logits to label maps."""
    with np.load(GOLDEN / "proposer_postprocess.npz") as golden:
        names = ("mask_logits", "motion_logits", "iou_pred")
        masks, motion, iou = (torch.from_numpy(golden[name]) for name in names)
        height, width = golden["video_hw"].tolist()
        maps, motions, ious = golden["proposals"], golden["motions"][..., 0], golden["ious"][..., 0]
    kept = keep_best(
        ProposerOutput(
            mask_logits=masks, motion_logits=motion[..., 0], ious=iou[..., 0], confidences=iou[..., 0]
        ),
        20,
    )
    labels = proposal_labels(kept.mask_logits, (height, width)).numpy()
    collector = ProposalCollector((height, width))
    for frame in zip(labels, kept.motion_logits.numpy(), kept.ious.numpy(), strict=True):
        collector.add(*frame)
    found = collector.finish()
    assert np.array_equal(np.stack(list(found.maps)), maps)
    assert np.abs(found.motions - motions).max() <= TOLERANCE
    assert np.abs(found.ious - ious).max() <= TOLERANCE


def test_equal_motion_logits_keep_the_order_of_the_queries() -> None:
    """Ties go to the smaller query, whatever the sort."""
    logits = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
    masks = torch.arange(5.0).view(1, 5, 1, 1).expand(1, 5, 2, 2)
    kept = keep_best(ProposerOutput(masks, logits, masks[..., 0, 0], masks[..., 0, 0]), 4)
    assert kept.ious.tolist() == [[1, 2, 4, 0]]
    assert kept.mask_logits[0, :, 1, 1].tolist() == [1, 2, 4, 0]


@pytest.mark.parametrize("video_hw", [(48, 85), (9, 200), (16, 16), (1, 1)])
@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_labels_equal_the_naive_form(video_hw: tuple[int, int], density: float) -> None:
    """Sparse, empty and dense logits, enlarged and shrunk: resize all, then arg-max."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 7, 16, 16, generator=generator)
    logits[torch.rand(logits.shape, generator=generator) > density] = -1.0
    resized = F.interpolate(logits, video_hw, mode="bilinear", align_corners=False)
    best, query = resized.max(dim=1)
    expected = torch.where(best > 0, query + 1, 0).to(torch.uint8)
    assert torch.equal(proposal_labels(logits, video_hw), expected)


def test_foreground_is_above_one_half_and_probability_is_floored() -> None:
    """Exactly 0.5 is background; 255 p is rounded down."""
    logits = torch.tensor([[[[0.0, 1e-3], [-50.0, 50.0]]]])
    mask, probability = foreground_map(logits, (2, 2))
    assert mask.tolist() == [[[0, 1], [0, 1]]]
    assert probability.tolist() == [[[127, 127], [0, 255]]]
