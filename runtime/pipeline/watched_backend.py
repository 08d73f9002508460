"""A backend whose network calls are watched, and a run of the pipeline that files nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from ..backend import Backend, Runner
from ..contract import NetworkName
from ..progress import Advance, NoProgress, Progress
from ..results.save_modes import ResultName
from ..thresholds import PUBLISHED
from ..video.reader import open_frames
from ..video.sequence import SequenceInput
from .encode import WindowEncoder, frame_preparer
from .feature_store import FeatureBudget, FeatureStore
from .label_store import LabelStore
from .memory_tracker import make_tracker
from .propose import foreground, propose
from .stage_off import StageOff
from .stage_on import OnFrame, StageOn

UNBOUNDED = 1 << 62

Saw = Callable[[NetworkName, Mapping[str, Array], Mapping[str, Array]], None]
"""Gets a network with its inputs and outputs, as the backend keeps them: valid during the call only."""


class WatchedBackend:
    """A backend that shows every network call, those of the pipeline's tracker too: it brings none of its own."""

    def __init__(self, backend: Backend, saw: Saw) -> None:
        self._backend = backend
        self._saw = saw
        self.model, self.description, self.arrays = backend.model, backend.description, backend.arrays

    def runner(self, network: NetworkName) -> Runner:
        """The other backend's runner, watched."""
        run = self._backend.runner(network)

        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            outputs = run(inputs)
            self._saw(network, inputs, outputs)
            return outputs

        return call

    def close(self) -> None:
        """Close the other backend."""
        self._backend.close()


def run_networks(
    backend: Backend,
    sequence: SequenceInput,
    *,
    frames: int,
    batch_size: int,
    progress: Progress | None = None,
) -> dict[ResultName, LabelStore]:
    """Run the first frames of a video through the whole pipeline.

    Args:
        backend: runs the networks; not closed.
        sequence: the checked input.
        frames: how many of its frames.
        batch_size: windows per call.
        progress: hears of every stage.

    Returns:
        The label maps of each result.
    """
    model, video_hw = backend.model, sequence.video_hw
    encoder = WindowEncoder(backend, stride=sequence.stride, batch_size=batch_size)
    known = sequence.frame_count_estimate
    listener, name = progress or NoProgress(), sequence.name
    with open_frames(sequence) as reader:
        prepared = map(frame_preparer(model, video_hw), itertools.islice(reader, frames))
        expected = None if known is None else min(known, frames)
        if model.variant == "gmos-s":
            labels = LabelStore(0, video_hw)
            with listener.stage(f"{name}: segment", expected) as advance:
                for answer in foreground(prepared, encoder, backend, video_hw=video_hw, advance=advance):
                    labels.append(answer.mask)
            return {"foreground": labels}
        with FeatureStore(backend.arrays, FeatureBudget(device=UNBOUNDED, host=0)) as store:
            with listener.stage(f"{name}: propose", expected) as advance:
                proposals = propose(prepared, encoder, backend, store, video_hw=video_hw, advance=advance)
            count = len(proposals)
            tracker = make_tracker(backend, store, frames=count, video_hw=video_hw)
            with listener.stage(f"{name}: track MOS-I", count) as advance:
                stage1 = StageOn(proposals, tracker, PUBLISHED, _each_frame(advance)).run()
            with listener.stage(f"{name}: track MOS", count) as advance:
                stage2 = StageOff(proposals, stage1, tracker, PUBLISHED, _each_frame(advance)).run()
        moving = LabelStore(0, video_hw)
        for frame in range(len(proposals)):
            moving.append(stage1.mos_i_labels(frame))
        return {"mos-i": moving, "mos": stage2.labels}


def _each_frame(advance: Advance) -> OnFrame:
    return lambda *_: advance(1)
