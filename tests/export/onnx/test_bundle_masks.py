"""Masks of a bundle against those of the reference, with the nano weights: what they segment is really there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.evaluation.compare.label_trees import label_pairs
from gmos_deploy.evaluation.compare.mask_agreement import sequence_agreement
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.runtime.console_progress import LineProgress
from gmos_deploy.runtime.onnx.backend import OnnxBackend
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.memory_tracker import make_tracker
from gmos_deploy.runtime.results.completion import ResultSet
from gmos_deploy.runtime.results.outputs import file_results
from gmos_deploy.runtime.tracker import Prompt, TrackerStep
from gmos_deploy.runtime.video.inputs import resolve_inputs

FRAMES, VIDEO_HW = 7, (126, 224)

CHANGED_SHARE = 1e-3
"""Of pixels: logits within rounding of the threshold fall on either side."""

MEAN_IOU = 0.999
"""Of a run's masks, as asked for in float32."""

FOUND_IOU = 0.5
"""From which on the disc counts as found."""


class Features:
    """The encoder's features of a video, computed once by the reference."""

    def __init__(self, backend: Any, host: list[dict[str, NDArray[np.float32]]]) -> None:
        self._frames = [
            {name: backend.arrays.upload(array) for name, array in frame.items()} for frame in host
        ]

    def get(self, frame: int) -> Mapping[str, Any]:
        return self._frames[frame]


@pytest.fixture(scope="module")
def features(
    nano_reference: TorchBackend, moving_disc: tuple[NDArray[np.uint8], NDArray[np.bool_]]
) -> list[dict[str, NDArray[np.float32]]]:
    """s0, s1 and f of the disc that moves beside its twin."""
    video = moving_disc[0]
    images = nano_reference.runner("sam2_resize")({"frames": nano_reference.arrays.upload(video)})
    maps = nano_reference.runner("sam2_encoder")(images)
    host = {name: nano_reference.arrays.download(array) for name, array in maps.items()}
    return [{name: array[t] for name, array in host.items()} for t in range(FRAMES)]


def track(backend: Any, features: list[dict[str, NDArray[np.float32]]]) -> list[TrackerStep]:
    """The moving disc and its twin from frame 0, the ground between from frame 2, forwards and then backwards."""
    stored = Features(backend, features)
    tracker = make_tracker(backend, stored, frames=FRAMES, video_hw=VIDEO_HW)
    rows, columns = np.mgrid[: VIDEO_HW[0], : VIDEO_HW[1]]

    def disc(row: int, column: int) -> NDArray[np.bool_]:
        return (rows - row) ** 2 + (columns - column) ** 2 < 24**2

    steps = [
        tracker.prompt(0, [Prompt(object_id=1, mask=disc(55, 70)), Prompt(object_id=2, mask=disc(85, 175))])
    ]
    for step in tracker.propagate(0):
        steps.append(step)
        if step.frame == 2:
            break
    steps.append(tracker.prompt(2, [Prompt(object_id=7, mask=disc(40, 130))]))
    steps += list(tracker.propagate(2))
    steps += list(tracker.propagate(4, reverse=True))
    return steps


def test_tracked_masks_are_those_of_the_package(
    nano_onnx: OnnxBackend,
    nano_reference: TorchBackend,
    features: list[dict[str, NDArray[np.float32]]],
    moving_disc: tuple[NDArray[np.uint8], NDArray[np.bool_]],
) -> None:
    """With prompts on two frames, objects of different memory lengths, and both directions."""
    expected, given = track(nano_reference, features), track(nano_onnx, features)
    assert [step.frame for step in given] == [step.frame for step in expected]
    truths = [moving_disc[1][step.frame] for step in expected]
    found = [
        (step.masks[0] & truth).sum() / (step.masks[0] | truth).sum()
        for step, truth in zip(expected, truths, strict=True)
    ]
    assert np.mean(found) > FOUND_IOU
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.object_ids == theirs.object_ids
        assert (ours.masks != theirs.masks).mean() <= CHANGED_SHARE
        assert (ours.labels != theirs.labels).mean() <= CHANGED_SHARE
        # The mask decoder's float32 sums in another order.
        np.testing.assert_allclose(ours.ious, theirs.ious, rtol=0, atol=1e-4)


def test_masks_of_a_run_are_those_of_the_reference(
    nano_onnx: OnnxBackend,
    nano_reference: TorchBackend,
    moving_disc: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    tmp_path: Path,
) -> None:
    """The whole pipeline on both: MOS-I and MOS agree, and the disc is in them."""
    frames, truth = moving_disc
    clip = tmp_path / "clip"
    clip.mkdir()
    for index, rgb in enumerate(frames):
        Image.fromarray(rgb).save(clip / f"{index:05d}.png")
    (sequence,) = resolve_inputs([clip], fps=None, stride=1)
    roots = []
    for name, backend in (("reference", nano_reference), ("bundle", nano_onnx)):
        results = ResultSet(
            save_dir=tmp_path / name, sequence="clip", variant="gmos", modes=frozenset({"mask"})
        )
        with LineProgress() as progress:
            file_results(iter(ClipRun(backend, sequence, progress=progress)), results, sequence.media)
        roots.append(tmp_path / name)
    pairs = label_pairs(*roots)
    assert {pair.result for pair in pairs} == {"mos-i", "mos"}
    for pair in pairs:
        found = sequence_agreement(pair.sequence, pair.result, pair.frames, pair.read)
        assert found.mean_iou >= MEAN_IOU
        assert not found.renamed
        middle = FRAMES // 2
        seen = pair.read(middle)[1] > 0
        assert (seen & truth[middle]).sum() / (seen | truth[middle]).sum() > FOUND_IOU
