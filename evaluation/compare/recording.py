"""What networks see and answer while a video runs: a sample of all calls, or the heads' answers frame by frame."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ...runtime.arrays import Array, Arrays
from ...runtime.backend import Backend, BringsTracker, Runner
from ...runtime.contract import NetworkName
from ...runtime.pipeline.clip import ClipRun
from ...runtime.pipeline.label_store import LabelStore
from ...runtime.pipeline.options import RunOptions
from ...runtime.pipeline.proposals import ProposalCollector, Proposals
from ...runtime.pipeline.watched_backend import WatchedBackend
from ...runtime.video.sequence import SequenceInput

HEADS: Mapping[str, tuple[str, ...]] = {
    "proposer": ("motion_logits", "ious"),
    "gmos_s": ("foreground_logits",),
}
"""What is kept of a head. The pipeline asks for it once per video, before the first frame."""


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
        self._seen: Counter[NetworkName] = Counter()
        self._kept: dict[NetworkName, dict[int, Call]] = {}
        self._random: dict[NetworkName, np.random.Generator] = {}

    def calls(self, network: NetworkName) -> list[Call]:
        """The calls kept of a network, in their order."""
        return sorted(self._kept.get(network, {}).values(), key=lambda call: call.index)

    def seen(self, network: NetworkName) -> int:
        """How often a network was called."""
        return self._seen[network]

    def offer(self, network: NetworkName, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Keep a call or not: reservoir sampling (Vitter's algorithm R)."""
        index = self._seen[network]
        self._seen[network] += 1
        random = self._random.setdefault(network, np.random.default_rng(zlib.crc32(network.encode())))
        place = index if index < self._limit else int(random.integers(0, index + 1))
        if place < self._limit:
            call = Call(index=index, inputs=self._on_host(inputs), outputs=self._on_host(outputs))
            self._kept.setdefault(network, {})[place] = call

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
    # What is not finite is for the comparison to say.
    options = RunOptions(batch_size=batch_size, allow_nonfinite=True)
    for _ in ClipRun(watched, sequence, options, frames=frames):
        pass
    return recording


class RecordedVideo:
    """One video: its proposals, or its foreground with logits in a file.

    `masks` (H, W) of the foreground, 0 or 1, by frame.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._collector: ProposalCollector | None = None
        self._logits_shape: tuple[int, ...] = ()
        self.masks: LabelStore | None = None

    def proposals(self) -> Proposals | None:
        """The proposals of all frames; None for GMOS-S."""
        return None if self._collector is None else self._collector.finish()

    def logits(self) -> NDArray[np.float32]:
        """The foreground's logits (frames, m, m), read from the file as they are used."""
        return np.memmap(self._path, np.float32, mode="r").reshape(-1, *self._logits_shape)

    def add_proposals(self, batch: Sequence[NDArray[Any]]) -> None:
        """Add a batch of labels (B, H, W), motion logits and IoUs (B, K)."""
        if self._collector is None:
            self._collector = ProposalCollector((batch[0].shape[1], batch[0].shape[2]))
        for answer in zip(*batch, strict=True):
            self._collector.add(*answer)

    def add_foreground(self, logits: NDArray[Any], masks: NDArray[np.uint8]) -> None:
        """Add a batch of logits (B, 1, m, m) and masks (B, H, W)."""
        if self.masks is None:
            self.masks = LabelStore(0, (masks.shape[1], masks.shape[2]))
        self._logits_shape = logits.shape[2:]
        try:
            with self._path.open("ab") as file:
                file.write(np.ascontiguousarray(logits, np.float32).tobytes())
        except OSError as error:
            raise GmosError(
                f"{self._path} cannot be written ({error.strerror}); free some space, or name another temporary "
                "directory in TMPDIR"
            ) from error
        for mask in masks:
            self.masks.append(mask)


class RecordingBackend(WatchedBackend):
    """A backend whose heads are recorded; it tracks as it always does.

    Args:
        backend: answers.
        folder: for files of logits, made when it is needed; they go with it.
        videos: gets what the heads answered, by video in the order in which they run.
    """

    def __init__(self, backend: Backend, folder: Path, videos: list[RecordedVideo]) -> None:
        super().__init__(backend, self._keep)
        self._folder = folder
        self._head: Mapping[str, NDArray[Any]] = {}
        self._videos = videos
        # An attribute of the object: whether a backend brings a tracker is asked by whether it has one.
        if isinstance(backend, BringsTracker):
            self.tracker = backend.tracker

    def runner(self, network: NetworkName) -> Runner:
        """A watched runner; the next video begins with its head."""
        if network in HEADS:
            self._folder.mkdir(exist_ok=True)
            self._videos.append(RecordedVideo(self._folder / f"{len(self._videos)}.f32"))
        return super().runner(network)

    def _keep(self, network: NetworkName, _: object, outputs: Mapping[str, Array]) -> None:
        """A call of a head, or of what makes maps of its answer, which follows it."""
        download = self.arrays.download
        if network in HEADS:
            self._head = {name: download(outputs[name]) for name in HEADS[network]}
        elif network == "proposal_labels":
            self._videos[-1].add_proposals(
                [download(outputs["labels"]), self._head["motion_logits"], self._head["ious"]]
            )
        elif network == "foreground_map":
            self._videos[-1].add_foreground(self._head["foreground_logits"], download(outputs["mask"]))
