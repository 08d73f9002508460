"""Presets: consistent sizes, refused nonsense, and SAM2 configurations that build."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.presets import (
    PRESETS,
    PUBLISHED,
    TINY,
    Pi3Config,
    ProposerConfig,
    Sam2Config,
    model_spec,
    preset,
)
from gmos_deploy.runtime.contract import network_specs


def test_published_sizes() -> None:
    """The published preset has the published sizes."""
    assert (PUBLISHED.pi3.dim, PUBLISHED.pi3.dino_depth, PUBLISHED.pi3.decoder_depth) == (1024, 24, 36)
    assert (PUBLISHED.proposer.grid, PUBLISHED.proposer.queries, PUBLISHED.sam2.image_px) == (64, 100, 1024)
    assert PUBLISHED.sam2.overrides == ()


@pytest.mark.parametrize("name", PRESETS)
def test_lookup(name: str) -> None:
    """A preset is found by its own name."""
    assert preset(name).name == name


def test_unknown_preset_lists_the_names() -> None:
    """An unknown preset names those that exist."""
    with pytest.raises(GmosError, match=r"preset 'huge' does not exist: .* published, small, tiny"):
        preset("huge")


def test_configs_are_frozen() -> None:
    """A configuration does not change after validation."""
    with pytest.raises(FrozenInstanceError):
        TINY.pi3.dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim is 0, expected a positive"),
        ({"dim": 1000}, "1000 channels over 16 heads"),
        ({"dim": 96, "heads": 16}, "multiple of 4"),
        ({"decoder_depth": 5}, "decoder_depth is 5, expected an even"),
        ({"window": 4}, "window is 4 frames, expected an odd"),
        ({"area_px": 195}, r"area_px is 195, expected room for one patch \(196\)"),
        ({"decoder_registers": 0}, "decoder_registers is 0"),
    ],
)
def test_bad_pi3_config(changes: dict[str, Any], message: str) -> None:
    """A Pi3 size that cannot work is refused when it is written down."""
    with pytest.raises(GmosError, match=message):
        Pi3Config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": 0}, "queries is 0"),
        ({"dim": 255}, "multiple of cross_downsample"),
        ({"heads": 6}, "256 channels over 6 heads"),
        ({"dim": 64, "heads": 16}, "cross-attention: 32 channels over 16 heads"),
        ({"sam2_channels": 12}, "sam2_channels is 12"),
    ],
)
def test_bad_proposer_config(changes: dict[str, Any], message: str) -> None:
    """A proposer size that cannot work is refused when it is written down."""
    with pytest.raises(GmosError, match=message):
        ProposerConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_px": 1000}, "image_px is 1000, expected a multiple of 64"),
        ({"image_px": 0}, "image_px is 0"),
        ({"channels": 4}, "channels is 4, expected a multiple of 8"),
    ],
)
def test_bad_sam2_config(changes: dict[str, Any], message: str) -> None:
    """A SAM2 size that cannot work is refused when it is written down."""
    with pytest.raises(GmosError, match=message):
        Sam2Config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 9}, "proposer grid is 9, expected SAM2 grid 8"),
        ({"pi3_dim": 32}, "proposer pi3_dim is 32, expected Pi3 dim 64"),
        ({"sam2_channels": 32}, "proposer sam2_channels is 32, expected SAM2 channels 64"),
    ],
)
def test_parts_must_fit(changes: dict[str, Any], message: str) -> None:
    """A preset refuses parts whose widths do not meet."""
    with pytest.raises(GmosError, match=f"preset tiny: {message}"):
        replace(TINY, proposer=replace(TINY.proposer, **changes))


@pytest.mark.parametrize("name", PRESETS)
def test_model_spec(name: str) -> None:
    """The contract of a preset carries its sizes, and its proposer takes what SAM2 gives."""
    sizes = preset(name)
    spec = model_spec(sizes, "gmos")
    assert (spec.preset, spec.pi3_channels, spec.pi3_area_px) == (name, sizes.pi3.dim, sizes.pi3.area_px)
    assert (spec.queries, spec.window, spec.patch_px) == (sizes.proposer.queries, 5, 14)
    features = network_specs(spec)["proposer"].inputs[-1]
    assert features.axes == ("B", sizes.proposer.sam2_channels, sizes.proposer.grid, sizes.proposer.grid)


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_shrunk_sam2_builds(name: str) -> None:
    """The overrides give a SAM2 whose image features have the sizes that the preset says."""
    from sam2.build_sam import build_sam2_video_predictor

    config = preset(name).sam2
    predictor = build_sam2_video_predictor(
        config.config, device="cpu", hydra_overrides_extra=list(config.overrides)
    )
    with torch.inference_mode():
        out = predictor.forward_image(torch.zeros(1, 3, config.image_px, config.image_px))
    side, channels = config.image_px, config.channels
    assert [tuple(level.shape) for level in out["backbone_fpn"]] == [
        (1, channels // 8, side // 4, side // 4),
        (1, channels // 4, side // 8, side // 8),
        (1, channels, config.grid, config.grid),
    ]
    # Memory smaller than the features: object pointers are split as they are at published size.
    assert predictor.mem_dim < predictor.hidden_dim
    assert predictor.hidden_dim % predictor.mem_dim == 0
