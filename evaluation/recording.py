"""What networks really see: a backend that keeps a sample of their inputs and outputs while a video runs."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.backend import Array, Backend, HostArray, Runner
from ..runtime.contract import ModelSpec, NetworkName, network_specs
from ..runtime.encode import PreparedFrame, WindowEncoder
from ..runtime.feature_store import FeatureBudget, FeatureStore
from ..runtime.memory_tracker import MemoryTracker
from ..runtime.pi3_frame import pi3_frame, pi3_size_wh
from ..runtime.propose import foreground, propose
from ..runtime.sequence import SequenceInput
from ..runtime.stage_off import StageOff
from ..runtime.stage_on import StageOn
from ..runtime.thresholds import PUBLISHED
from ..runtime.tracker import FrameFeatures, Tracker
from ..runtime.video import open_frames

UNBOUNDED = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a network, on the host: floating-point values as float32. `index` counts its calls."""

    index: int
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]


class RecordingBackend:
    """A backend that keeps up to `limit` calls of every network, each call equally likely to be kept.

    Implements `runtime.backend.Backend` on top of another one. The sample depends on nothing but the
    order of calls.
    """

    def __init__(self, backend: Backend, limit: int) -> None:
        self._backend = backend
        self._limit = limit
        self._seen: dict[NetworkName, int] = {}
        self._kept: dict[NetworkName, list[Call]] = {}
        self._random: dict[NetworkName, np.random.Generator] = {}

    def calls(self, network: NetworkName) -> list[Call]:
        """The calls kept of a network, in their order."""
        return sorted(self._kept.get(network, ()), key=lambda call: call.index)

    def seen(self, network: NetworkName) -> int:
        """How often a network was called."""
        return self._seen.get(network, 0)

    @property
    def model(self) -> ModelSpec:
        """See `runtime.backend.Backend`."""
        return self._backend.model

    @property
    def description(self) -> str:
        """See `runtime.backend.Backend`."""
        return self._backend.description

    def runner(self, network: NetworkName) -> Runner:
        """See `runtime.backend.Backend`."""
        run = self._backend.runner(network)

        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            outputs = run(inputs)
            self._offer(network, inputs, outputs)
            return outputs

        return call

    def _offer(self, network: NetworkName, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Reservoir sampling (Vitter's algorithm R)."""
        index = self._seen.get(network, 0)
        self._seen[network] = index + 1
        kept = self._kept.setdefault(network, [])
        random = self._random.setdefault(network, np.random.default_rng(zlib.crc32(network.encode())))
        place = index if index < self._limit else int(random.integers(0, index + 1))
        if place >= self._limit:
            return
        call = Call(index=index, inputs=self._on_host(inputs), outputs=self._on_host(outputs))
        if place < len(kept):
            kept[place] = call
        else:
            kept.append(call)

    def _on_host(self, arrays: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
        return {
            # Copied: a backend may use its buffers again.
            name: np.array(array if isinstance(array, np.ndarray) else self._backend.download(array))
            for name, array in arrays.items()
        }

    def upload(self, host: NDArray[np.generic]) -> Array:
        """See `runtime.backend.Backend`."""
        return self._backend.upload(host)

    def download(self, array: Array) -> NDArray[Any]:
        """See `runtime.backend.Backend`."""
        return self._backend.download(array)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """See `runtime.backend.Backend`."""
        return self._backend.stack(arrays)

    def unstack(self, array: Array) -> Sequence[Array]:
        """See `runtime.backend.Backend`."""
        return self._backend.unstack(array)

    def nbytes(self, array: Array) -> int:
        """See `runtime.backend.Backend`."""
        return self._backend.nbytes(array)

    def to_host(self, array: Array) -> HostArray:
        """See `runtime.backend.Backend`."""
        return self._backend.to_host(array)

    def from_host(self, parked: HostArray) -> Array:
        """See `runtime.backend.Backend`."""
        return self._backend.from_host(parked)

    def free_device_bytes(self) -> int:
        """See `runtime.backend.Backend`."""
        return self._backend.free_device_bytes()

    def tracker(self, features: FrameFeatures, *, frames: int, video_hw: tuple[int, int]) -> Tracker:
        """See `runtime.backend.Backend`; always the tracker of five networks, so that they are seen."""
        return MemoryTracker(self, features, frames=frames, video_hw=video_hw)

    def synchronize(self) -> None:
        """See `runtime.backend.Backend`."""
        self._backend.synchronize()

    def close(self) -> None:
        """See `runtime.backend.Backend`."""
        self._backend.close()


def record(
    backend: Backend, sequence: SequenceInput, *, frames: int, limit: int, batch_size: int
) -> RecordingBackend:
    """Run the first frames of a video and keep what the networks see.

    Args:
        backend: runs the video; not closed.
        sequence: the checked input.
        frames: how many of its frames.
        limit: calls kept of each network.
        batch_size: windows per call.
    """
    recorder = RecordingBackend(backend, limit)
    model, video_hw = backend.model, sequence.video_hw
    size_wh = pi3_size_wh(video_hw[1], video_hw[0], model.pi3_area_px, model.patch_px)
    encoder = WindowEncoder(recorder, stride=sequence.stride, batch_size=batch_size)
    with open_frames(sequence) as reader:
        prepared = (
            PreparedFrame(
                index=frame.index,
                rgb=frame.rgb,
                pi3_rgb=pi3_frame(frame.rgb, size_wh),
                time_s=frame.time_s,
            )
            for frame in itertools.islice(reader, frames)
        )
        if model.variant == "gmos-s":
            for _ in foreground(prepared, encoder, recorder, video_hw=video_hw, advance=lambda _: None):
                pass
            return recorder
        with FeatureStore(recorder, FeatureBudget(device=UNBOUNDED, host=0)) as store:
            proposals = propose(prepared, encoder, recorder, store, video_hw=video_hw, advance=lambda _: None)
            tracker = recorder.tracker(store, frames=len(proposals), video_hw=video_hw)
            stage1 = StageOn(proposals, tracker, PUBLISHED, lambda *_: None).run()
            StageOff(proposals, stage1, tracker, PUBLISHED, lambda *_: None).run()
    return recorder


def networks_of(model: ModelSpec) -> tuple[NetworkName, ...]:
    """The networks that a run of a model calls."""
    return tuple(network_specs(model))
