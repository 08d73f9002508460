"""The trained weights that come with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.gmos_ref.loading import load_reference
from gmos_deploy.gmos_ref.reference_config import FOLDER, ReferenceConfig, nano_checkpoints
from gmos_deploy.runtime.backend import Backend
from gmos_deploy.runtime.contract import Variant
from gmos_deploy.runtime.pipeline.encode import WindowEncoder, frame_preparer
from gmos_deploy.runtime.pipeline.finite_check import FiniteCheck
from gmos_deploy.runtime.pipeline.propose import foreground
from gmos_deploy.runtime.video.sequence import Frame

LIMIT_BYTES = 12_000_000
"""What all weights together may take in the wheel."""

VIDEO_HW = (126, 224)

Clip = tuple[NDArray[np.uint8], NDArray[np.bool_]]


@pytest.mark.parametrize("variant", ["gmos", "gmos-s"])
def test_nano_needs_no_checkpoints(variant: Variant) -> None:
    """Without flags its own files stand in the configuration, as if they had been given."""
    config = ReferenceConfig(variant=variant, preset="nano")
    assert config.checkpoints() == nano_checkpoints(variant)
    assert all(path.is_file() for path in nano_checkpoints(variant).values())


def test_given_checkpoints_are_not_mixed_with_the_packaged_ones() -> None:
    """One flag alone is refused as for any preset: a mixture would run and mean nothing."""
    with pytest.raises(GmosError, match="gmos at the nano size needs 3 checkpoints; not given: --pi3_ckpt"):
        ReferenceConfig(variant="gmos", preset="nano", sam2_ckpt=Path("x.pt"))


def test_all_weights_fit_the_wheel() -> None:
    """At most 12 MB for both variants together."""
    assert sum(file.stat().st_size for file in FOLDER.glob("*.safetensors")) <= LIMIT_BYTES


@pytest.fixture(scope="module")
def gmos_s() -> Backend:
    return load_reference(ReferenceConfig(variant="gmos-s", preset="nano", device="cpu"))


def segment(backend: Backend, frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """GMOS-S masks (T, H, W), windows of neighbouring frames."""
    prepare = frame_preparer(backend.model, VIDEO_HW)
    prepared = [prepare(Frame(index=t, rgb=rgb, time_s=t / 8)) for t, rgb in enumerate(frames)]
    encoder = WindowEncoder(backend, stride=1, batch_size=8)
    check = FiniteCheck(video="clip", allowed=False, found={})
    answers = foreground(prepared, encoder, backend, video_hw=VIDEO_HW, advance=lambda _: None, check=check)
    return np.stack([answer.mask for answer in answers]).astype(bool)


def test_gmos_s_segments_what_moves_and_not_its_twin_at_rest(gmos_s: Backend, moving_disc: Clip) -> None:
    """The trained network, on a clip that no training saw."""
    frames, masks = moving_disc
    found = segment(gmos_s, frames)
    middle = slice(2, 5)
    iou = (found & masks)[middle].sum() / (found | masks)[middle].sum()
    assert iou > 0.6
    y, x = np.mgrid[: VIDEO_HW[0], : VIDEO_HW[1]]
    twin = (x - 175) ** 2 + (y - 85) ** 2 < 24**2
    assert found[middle][:, twin].mean() < 0.1


def test_gmos_s_sees_nothing_in_a_still_clip(gmos_s: Backend, moving_disc: Clip) -> None:
    """It uses motion: one frame repeated holds nothing that moves."""
    frames, _ = moving_disc
    assert segment(gmos_s, np.repeat(frames[3:4], 3, axis=0)).mean() < 0.005
