"""GMOS-S: checkpoint keys, golden outputs at published size, epsilons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from gmos_deploy.gmos_ref.gmos.gmos_s import GmosS
from gmos_deploy.gmos_ref.presets import PUBLISHED, TINY

Build = Callable[[Callable[[], nn.Module]], nn.Module]
Draw = Callable[[int, tuple[int, ...]], Tensor]


def test_checkpoint_keys(golden_folder: Path) -> None:
    """Keys, shapes and dtypes are those of the published checkpoint."""
    with torch.device("meta"):
        state = GmosS(PUBLISHED.proposer).state_dict()
    given = {key: [list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()}
    assert given == json.loads((golden_folder / "gmos_s.keys.json").read_text())


def test_golden(
    deterministic: Build,
    golden: Callable[[str], dict[str, Tensor]],
    normal: Draw,
    assert_golden: Callable[[Tensor, Tensor], None],
) -> None:
    """GMOS-S gives what the published implementation gives, at published size."""
    network = deterministic(lambda: GmosS(PUBLISHED.proposer))
    inputs = (
        normal(21, (1, 24, 48, 1024)),
        normal(22, (1, 256, 64, 64)),
        normal(23, (1, 32, 256, 256)),
        normal(24, (1, 64, 128, 128)),
    )
    with torch.inference_mode():
        given = network(*inputs)
    expected = golden("gmos_s")
    assert_golden(given.foreground_logits[:, :, ::4, ::4], expected["fg_mask_strided"])
    assert_golden(given.ious, expected["iou_pred"])
    assert_golden(given.confidences, expected["conf_pred"])


def test_tiny_shapes(deterministic: Build, normal: Draw) -> None:
    """All sizes come from the configuration."""
    network = deterministic(lambda: GmosS(TINY.proposer))
    inputs = [
        normal(seed, (2, *shape))
        for seed, shape in enumerate(((7, 9, 64), (64, 8, 8), (8, 32, 32), (16, 16, 16)))
    ]
    with torch.inference_mode():
        given = network(*inputs)
    assert [tuple(x.shape) for x in given] == [(2, 1, 32, 32), (2, 1), (2, 1)]
    assert ((given.confidences > 1) & (given.confidences < 5)).all()


def test_epsilons() -> None:
    """LayerNorms have the published epsilons, which are too small to show in an output."""
    with torch.device("meta"):
        network = GmosS(PUBLISHED.proposer)
    projectors = (network.pi3_projector, network.sam_projector, network.merge_projector)
    assert {projector.norm.eps for projector in projectors} == {1e-6}
    encoder_norms = [m for m in network.trans_encoder.modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in encoder_norms} == {1e-5}
    upscaling_norms = [m for m in network.fg_upscaling if isinstance(m, nn.LayerNorm)]
    assert [norm.eps for norm in upscaling_norms] == [1e-6]
