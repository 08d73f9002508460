"""What networks really see: a sample of their inputs and outputs while a video runs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.arrays import Array, Arrays
from ...runtime.backend import Backend
from ...runtime.contract import NetworkName
from ...runtime.pipeline.clip import ClipRun
from ...runtime.pipeline.options import RunOptions
from ...runtime.pipeline.watched_backend import WatchedBackend
from ...runtime.video.sequence import SequenceInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a network, on the host: floating-point values as float32. `index` counts its calls."""

    index: int
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, NDArray[Any]]


class Recording:
    """Up to `limit` calls of every network of a backend, each call equally likely to be kept.

    The sample depends on nothing but the order of calls.
    """

    def __init__(self, arrays: Arrays, limit: int) -> None:
        self._arrays = arrays
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

    def offer(self, network: NetworkName, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Keep a call or not: reservoir sampling (Vitter's algorithm R)."""
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
            name: np.array(array if isinstance(array, np.ndarray) else self._arrays.download(array))
            for name, array in arrays.items()
        }


def record(
    backend: Backend, sequence: SequenceInput, *, frames: int, limit: int, batch_size: int
) -> Recording:
    """Run the first frames of a video and keep what the networks see.

    Args:
        backend: runs the video; not closed.
        sequence: the checked input.
        frames: how many of its frames.
        limit: calls kept of each network.
        batch_size: windows per call.
    """
    recording = Recording(backend.arrays, limit)
    watched = WatchedBackend(backend, recording.offer)
    for _ in ClipRun(watched, sequence, RunOptions(batch_size=batch_size), frames=frames):
        pass
    return recording
