"""Files played as streams: the frames and times of the file, at once or at their times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gmos_deploy.runtime.live.reading import LiveFrames
from gmos_deploy.runtime.live.sources.played import PlayedReader
from gmos_deploy.runtime.live.sources.registry import resolve_live
from gmos_deploy.runtime.live.sources.source import Asked
from gmos_deploy.runtime.video.inputs import resolve_inputs

from ..scripted import FakeClock

MakeVideo = Callable[..., Path]

UNEVEN = [0, 3, 4, 9, 200, 201]
"""Times in units of 1/30 s, with a jump of more than six seconds."""


def test_every_frame_as_the_file_has_it(make_video: MakeVideo) -> None:
    """However uneven its times: numbers, times and pixels are those of a run over the file."""
    from fractions import Fraction

    path = make_video(frames=6, times=UNEVEN, time_base=Fraction(1, 30))
    (sequence,) = resolve_inputs([str(path)], fps=None, stride=None)
    frames = LiveFrames(resolve_live(str(path), Asked(live=True)))
    with sequence.open() as reader:
        for live, frame in zip(frames, reader, strict=True):
            assert (live.index, live.time_s) == (frame.index, frame.time_s)
            assert np.array_equal(live.rgb, frame.rgb)
            assert not live.new_sequence
    assert frames.start is not None
    assert (frames.start.stride, frames.start.video_hw) == (sequence.stride, sequence.video_hw)


def test_in_its_own_time(make_video: MakeVideo) -> None:
    """A frame comes when it is due, and at once where that has passed."""
    (sequence,) = resolve_inputs([str(make_video(frames=4, fps=10))], fps=None, stride=None)
    clock = FakeClock()
    arrivals = []
    with PlayedReader(sequence, paced=True, clock=clock, pause=clock.pause) as reader:  # type: ignore[arg-type]
        for picture in reader:
            arrivals.append(picture.arrival_s - 1000)
            # Whoever reads is slow once.
            clock.now_s += 0.25 if len(arrivals) == 2 else 0.0
    assert arrivals == pytest.approx([0.0, 0.1, 0.35, 0.35])
