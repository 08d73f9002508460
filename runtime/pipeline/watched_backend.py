"""A backend whose network calls are watched, and a run of the pipeline that files nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import Array, Backend, HostArray, Runner
from ..contract import ModelSpec, NetworkName
from ..progress import Advance, NoProgress, Progress
from ..results.save_modes import ResultName
from ..thresholds import PUBLISHED
from ..tracker import FrameFeatures, Tracker
from ..video.reader import open_frames
from ..video.sequence import SequenceInput
from .encode import WindowEncoder, frame_preparer
from .feature_store import FeatureBudget, FeatureStore
from .label_store import LabelStore
from .memory_tracker import MemoryTracker
from .propose import foreground, propose
from .stage_off import StageOff
from .stage_on import OnFrame, StageOn

UNBOUNDED = 1 << 62

Saw = Callable[[NetworkName, Mapping[str, Array], Mapping[str, Array]], None]
"""Gets a network with its inputs and outputs, as the backend keeps them: valid during the call only."""


class WatchedBackend:
    """A backend that shows every network call. Implements `Backend` on top of another one."""

    def __init__(self, backend: Backend, saw: Saw) -> None:
        self._backend = backend
        self._saw = saw

    @property
    def model(self) -> ModelSpec:
        """See `Backend`."""
        return self._backend.model

    @property
    def description(self) -> str:
        """See `Backend`."""
        return self._backend.description

    def runner(self, network: NetworkName) -> Runner:
        """See `Backend`."""
        run = self._backend.runner(network)

        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            outputs = run(inputs)
            self._saw(network, inputs, outputs)
            return outputs

        return call

    def upload(self, host: NDArray[np.generic]) -> Array:
        """See `Backend`."""
        return self._backend.upload(host)

    def download(self, array: Array) -> NDArray[Any]:
        """See `Backend`."""
        return self._backend.download(array)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """See `Backend`."""
        return self._backend.stack(arrays)

    def unstack(self, array: Array) -> Sequence[Array]:
        """See `Backend`."""
        return self._backend.unstack(array)

    def nbytes(self, array: Array) -> int:
        """See `Backend`."""
        return self._backend.nbytes(array)

    def to_host(self, array: Array) -> HostArray:
        """See `Backend`."""
        return self._backend.to_host(array)

    def from_host(self, parked: HostArray) -> Array:
        """See `Backend`."""
        return self._backend.from_host(parked)

    def free_device_bytes(self) -> int:
        """See `Backend`."""
        return self._backend.free_device_bytes()

    def tracker(self, features: FrameFeatures, *, frames: int, video_hw: tuple[int, int]) -> Tracker:
        """See `Backend`; always the tracker of five networks, so that they are seen."""
        return MemoryTracker(self, features, frames=frames, video_hw=video_hw)

    def synchronize(self) -> None:
        """See `Backend`."""
        self._backend.synchronize()

    def close(self) -> None:
        """See `Backend`."""
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
        with FeatureStore(backend, FeatureBudget(device=UNBOUNDED, host=0)) as store:
            with listener.stage(f"{name}: propose", expected) as advance:
                proposals = propose(prepared, encoder, backend, store, video_hw=video_hw, advance=advance)
            count = len(proposals)
            tracker = backend.tracker(store, frames=count, video_hw=video_hw)
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
