"""The tracker on a bundle against the SAM2 package on the same features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.runtime.onnx_backend import OnnxBackend
from gmos_deploy.runtime.tracker import Prompt, TrackerStep

FRAMES, VIDEO_HW = 6, (90, 120)

CHANGED_SHARE = 1e-3
"""Of pixels: logits within rounding of the threshold fall on either side."""


class Features:
    """The encoder's features of a video, computed once by the reference."""

    def __init__(self, backend: Any, host: list[dict[str, NDArray[np.float32]]]) -> None:
        self._frames = [{name: backend.upload(array) for name, array in frame.items()} for frame in host]

    def get(self, frame: int) -> Mapping[str, Any]:
        return self._frames[frame]


@pytest.fixture(scope="module")
def features(torch_backend: TorchBackend) -> list[dict[str, NDArray[np.float32]]]:
    """s0, s1 and f of a smooth random video that drifts to the right."""
    rng = np.random.default_rng(11)
    texture = ndimage.gaussian_filter(rng.random((*VIDEO_HW, 3)), (6, 6, 0))
    texture = 255 * (texture - texture.min()) / np.ptp(texture)
    video = np.stack([np.roll(texture, 3 * t, axis=1) for t in range(FRAMES)]).astype(np.uint8)
    images = torch_backend.runner("sam2_resize")({"frames": torch_backend.upload(video)})
    maps = torch_backend.runner("sam2_encoder")(images)
    host = {name: torch_backend.download(array) for name, array in maps.items()}
    return [{name: array[t] for name, array in host.items()} for t in range(FRAMES)]


def track(backend: Any, features: list[dict[str, NDArray[np.float32]]]) -> list[TrackerStep]:
    """Two objects from frame 0, a third from frame 2, forwards and then backwards."""
    tracker = backend.tracker(Features(backend, features), frames=FRAMES, video_hw=VIDEO_HW)
    rows, columns = np.mgrid[: VIDEO_HW[0], : VIDEO_HW[1]]

    def disc(row: int, column: int) -> NDArray[np.bool_]:
        return (rows - row) ** 2 + (columns - column) ** 2 < 18**2

    steps = [
        tracker.prompt(0, [Prompt(object_id=1, mask=disc(30, 30)), Prompt(object_id=2, mask=disc(50, 80))])
    ]
    for step in tracker.propagate(0):
        steps.append(step)
        if step.frame == 2:
            break
    steps.append(tracker.prompt(2, [Prompt(object_id=7, mask=disc(60, 40))]))
    steps += list(tracker.propagate(2))
    steps += list(tracker.propagate(4, reverse=True))
    return steps


def test_masks_are_those_of_the_package(
    onnx_backend: OnnxBackend, torch_backend: TorchBackend, features: list[dict[str, NDArray[np.float32]]]
) -> None:
    """With prompts on two frames, objects of different memory lengths, and both directions."""
    expected, given = track(torch_backend, features), track(onnx_backend, features)
    assert [step.frame for step in given] == [step.frame for step in expected]
    assert max(step.masks.mean() for step in expected) > 0.02
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.object_ids == theirs.object_ids
        assert (ours.masks != theirs.masks).mean() <= CHANGED_SHARE
        assert (ours.labels != theirs.labels).mean() <= CHANGED_SHARE
        # The mask decoder's float32 sums in another order.
        np.testing.assert_allclose(ours.ious, theirs.ious, rtol=0, atol=1e-4)
