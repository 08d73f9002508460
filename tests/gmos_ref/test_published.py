"""SAM2.1 Hiera-L at published size: the encoder and one step of the tracker. Run with `make published`."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from gmos_deploy.gmos_ref.checkpoints.stand_in import fill_deterministic
from gmos_deploy.gmos_ref.presets import PUBLISHED
from gmos_deploy.gmos_ref.sam2.model import FeaturePredictor, build_sam2
from gmos_deploy.gmos_ref.sam2.tracker import Sam2Tracker
from gmos_deploy.runtime.tracker import Prompt

pytestmark = pytest.mark.published

PARAMETERS = 224_446_642
"""Of SAM2.1 Hiera-L with its tracker, as the package builds it."""


@pytest.fixture(scope="module")
def predictor() -> FeaturePredictor:
    model = build_sam2(PUBLISHED.sam2)
    fill_deterministic(model)
    return model


def test_the_encoder_gives_the_published_maps(predictor: FeaturePredictor) -> None:
    """Three maps of the published sizes, finite and different from each other across the image."""
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 1024, 1024), np.float32))
    with torch.inference_mode():
        maps = predictor.encode_image(images)
    shapes = {name: tuple(array.shape) for name, array in maps.items()}
    assert shapes == {"s0": (1, 32, 256, 256), "s1": (1, 64, 128, 128), "f": (1, 256, 64, 64)}
    for array in maps.values():
        assert torch.isfinite(array).all()
        assert array.std() > 0
    assert sum(parameter.numel() for parameter in predictor.parameters()) == PARAMETERS


def test_the_tracker_runs_at_published_size(predictor: FeaturePredictor) -> None:
    """A prompt comes back as its own mask; the next frame gives an answer of the video's size."""
    images = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, 1024, 1024), np.float32))
    with torch.inference_mode():
        maps = [predictor.encode_image(image[None]) for image in images]

    class Features:
        def get(self, frame: int) -> dict[str, torch.Tensor]:
            return {name: array[0] for name, array in maps[frame].items()}

    tracker = Sam2Tracker(predictor, Features(), frames=2, video_hw=(480, 854), context=nullcontext)
    mask = np.zeros((480, 854), np.bool_)
    mask[100:300, 200:500] = True
    step = tracker.prompt(0, [Prompt(object_id=0, mask=mask)])
    differing = (step.masks[0] != mask).mean()
    # The prompt passes through 1024x1024 and 256x256: its border moves by a pixel or two.
    assert differing < 0.01
    assert step.ious.tolist() == [1.0]
    _, (logits, ious) = list(tracker.propagate_logits(0))[1]
    assert logits.shape == (1, 1, 480, 854)
    assert torch.isfinite(logits).all()
    assert 0 <= ious[0] <= 1
