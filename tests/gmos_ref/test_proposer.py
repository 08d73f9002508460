"""The GMOS proposer: checkpoint keys, golden outputs at published size, epsilons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from gmos_deploy.gmos_ref.gmos.mask_upsampling import ChannelNorm
from gmos_deploy.gmos_ref.gmos.proposer import GmosProposer
from gmos_deploy.gmos_ref.presets import PUBLISHED, TINY

SUMS = 1e-4
"""Float32 sums in another order, on mask logits of order ten."""

Build = Callable[[Callable[[], nn.Module]], nn.Module]
Draw = Callable[[int, tuple[int, ...]], Tensor]


def tiny_inputs(normal: Draw, batch: int) -> list[Tensor]:
    """Pi3 features of a 7 x 9 grid and SAM2 features of the tiny sizes."""
    shapes = ((7, 9, 64), (64, 8, 8), (8, 32, 32), (16, 16, 16))
    return [normal(seed, (batch, *shape)) for seed, shape in enumerate(shapes)]


def test_checkpoint_keys(golden_folder: Path) -> None:
    """Keys, shapes and dtypes are those of the published checkpoint."""
    with torch.device("meta"):
        state = GmosProposer(PUBLISHED.proposer).state_dict()
    given = {key: [list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()}
    assert given == json.loads((golden_folder / "gmos_proposer.keys.json").read_text())


def test_golden(
    deterministic: Build,
    golden: Callable[[str], dict[str, Tensor]],
    normal: Draw,
    assert_golden: Callable[[Tensor, Tensor], None],
) -> None:
    """The proposer gives what the published implementation gives, at published size."""
    proposer = deterministic(lambda: GmosProposer(PUBLISHED.proposer))
    inputs = (
        normal(21, (1, 24, 48, 1024)),
        normal(22, (1, 256, 64, 64)),
        normal(23, (1, 32, 256, 256)),
        normal(24, (1, 64, 128, 128)),
    )
    with torch.inference_mode():
        given = proposer(*inputs)
    expected = golden("proposer")
    assert given.mask_logits.shape == (1, 100, 256, 256)
    assert_golden(given.mask_logits[:, ::7, ::8, ::8], expected["mask_strided"])
    assert_golden(given.motion_logits, expected["motion_logits"].squeeze(-1))
    assert_golden(given.ious, expected["iou_pred"].squeeze(-1))
    assert_golden(given.confidences, expected["conf_pred"].squeeze(-1))


def test_batch_equals_single_frames(deterministic: Build, normal: Draw) -> None:
    """Frames of a batch do not see each other; all sizes come from the configuration."""
    proposer, inputs = deterministic(lambda: GmosProposer(TINY.proposer)), tiny_inputs(normal, 3)
    with torch.inference_mode():
        together = proposer(*inputs)
        alone = [proposer(*(x[i : i + 1] for x in inputs)) for i in range(3)]
    assert together.mask_logits.shape == (3, 24, 32, 32)
    for name in together._fields:
        single = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), single, rtol=0, atol=SUMS)


def test_motion_shifts_the_masks(deterministic: Build, normal: Draw) -> None:
    """A mask moves by motion_weight * (sigmoid(motion logit) - motion_bias), and nothing else does."""
    proposer, inputs = deterministic(lambda: GmosProposer(TINY.proposer)), tiny_inputs(normal, 1)
    assert isinstance(proposer, GmosProposer)
    with torch.inference_mode():
        proposer.motion_weight.zero_()
        plain = proposer(*inputs)
        proposer.motion_weight.fill_(3.0)
        proposer.motion_bias.fill_(0.25)
        shifted = proposer(*inputs)
    shift = 3.0 * (plain.motion_logits.sigmoid() - 0.25)
    expected = plain.mask_logits + shift[..., None, None]
    torch.testing.assert_close(shifted.mask_logits, expected, rtol=0, atol=SUMS)
    assert torch.equal(shifted.ious, plain.ious)
    assert ((plain.confidences > 1) & (plain.confidences < 5)).all()


def test_epsilons() -> None:
    """LayerNorms have the published epsilons, which are too small to show in an output."""
    with torch.device("meta"):
        proposer = GmosProposer(PUBLISHED.proposer)
    projectors = (proposer.pi3_projector, proposer.sam_projector, proposer.merge_projector)
    assert {projector.norm.eps for projector in projectors} == {1e-6}
    for part in (proposer.trans_encoder, proposer.trans_decoder):
        assert {module.eps for module in part.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}
    channel_norms = [module.eps for module in proposer.modules() if isinstance(module, ChannelNorm)]
    assert channel_norms == [1e-6]
