"""Runs videos through the pipeline and keeps a bounded, diverse sample of what every network gets."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ...fleet.several import Several
from ...runtime.arrays import Array, Arrays
from ...runtime.backend import Backend, Runner
from ...runtime.bundle.manifest import Bundle, BundleNetwork
from ...runtime.contract import NetworkName, network_specs
from ...runtime.pipeline.clip import ClipRun
from ...runtime.pipeline.options import RunOptions
from ...runtime.pipeline.watched_backend import Saw, WatchedBackend
from ...runtime.progress import Progress
from ...runtime.shapes import call_lengths
from ...runtime.video.sequence import SequenceInput
from .balanced_sample import BalancedSample
from .sample_store import SampleStore

logger = logging.getLogger(__name__)

TIME_PARTS = 8
"""Parts of a video that calls are spread over."""

GLANCE = 4096
"""Values of an input that are compared with those of the call before, to tell stillness from motion."""

MOTION_LEVELS = (0.5, 2.0)
"""Change since the call before, over its mean so far: below still, above fast."""

POINTER_STEP = 4
"""Object pointers that count as one more."""

PI3: frozenset[NetworkName] = frozenset({"dino", "pi3_decoder"})
"""Networks whose inputs need no other network to run."""

BATCH_SIZE = 1
"""Windows per call: a sample is one frame or one window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLimits:
    """How much is kept of each network, over all videos: calls, and bytes of all networks together."""

    max_samples: int
    max_bytes: int
    frames: int | None
    seed: int

    def __post_init__(self) -> None:
        for name, value in (("max_samples", self.max_samples), ("max_bytes", self.max_bytes)):
            if value < 1:
                raise GmosError(f"--{name} {value}: expected 1 or more")
        if self.frames is not None and self.frames < 1:
            raise GmosError(f"--frames {self.frames}: expected 1 or more")


def check_lengths(sequences: Sequence[SequenceInput], bundle: Bundle, frames: int | None) -> None:
    """Refuse videos in which no window is whole.

    Raises:
        GmosError: with the first of them.
    """
    for sequence in sequences:
        known = [count for count in (sequence.frame_count_estimate, frames) if count is not None]
        if known:
            _check_length(sequence, min(known), bundle)


def _check_length(sequence: SequenceInput, frames: int, bundle: Bundle) -> None:
    needed = (bundle.model.window - 1) * sequence.stride + 1
    if frames < needed:
        raise GmosError(
            f"{sequence.path}: {frames} frames, expected at least {needed} ({bundle.model.window} of a window, "
            f"{sequence.stride} apart); give a longer video, more --frames or a smaller --stride"
        )


def sample_videos(
    backend: Backend,
    bundle: Bundle,
    sequences: Sequence[SequenceInput],
    store: SampleStore,
    *,
    networks: Sequence[NetworkName],
    limits: SampleLimits,
    progress: Progress | None = None,
    several: Several | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Sample every video that is not finished yet.

    Args:
        backend: runs the videos; not closed.
        bundle: that it runs.
        sequences: the checked inputs.
        store: where samples go.
        networks: whose calls are kept.
        limits: how much of them.
        progress: hears of every stage.
        several: hears of videos that fail; without it the first of them ends it.

    Returns:
        The record of each video by its name.

    Raises:
        GmosError: a video cannot be read, a sample cannot be written, or nothing fits into the limits.
    """
    records: dict[str, Mapping[str, Any]] = {}
    for number, sequence in enumerate(sequences):
        # The first videos take what does not divide evenly.
        share = -(-(limits.max_samples - number) // len(sequences))
        settings = {
            "bundle": bundle.identity,
            "networks": list(networks),
            "frames": limits.frames,
            "stride": sequence.stride,
            "seed": limits.seed,
            "samples": max(share, 0),
            "bytes": limits.max_bytes // (len(sequences) * len(networks)),
            "video": {"name": sequence.name, "sha256": sequence.identity()},
        }
        found = store.finished(sequence.name, settings)
        if found is not None:
            logger.info("%s: sampled before, kept", sequence.name)
            records[sequence.name] = found
            continue
        work = partial(_sampled, backend, bundle, sequence, store, settings, progress=progress)
        sampled = work() if several is None else several.attempt(sequence.name, work)
        if sampled is not None:
            records[sequence.name] = sampled
    return records


def _sampled(
    backend: Backend,
    bundle: Bundle,
    sequence: SequenceInput,
    store: SampleStore,
    settings: Mapping[str, Any],
    *,
    progress: Progress | None,
) -> Mapping[str, Any]:
    """Sample a video, of the networks and within the limits that `settings` name; its record."""
    store.start(sequence.name)
    networks, frames = settings["networks"], settings["frames"]
    entries = {name: bundle.networks[name] for name in networks}
    sampler = _VideoSampler(backend.arrays, entries, sequence, store, settings)
    sampled: Backend = WatchedBackend(backend, sampler.saw)
    encoders_only = PI3.issuperset(networks)
    if encoders_only:
        sampled = EncoderInputs(backend, sampler.saw, decoded="pi3_decoder" in networks)
    run = ClipRun(sampled, sequence, RunOptions(batch_size=BATCH_SIZE), progress=progress, frames=frames)
    for _ in run.encoded() if encoders_only else run:
        pass
    # A file's index may claim more frames than there are, or nothing.
    _check_length(sequence, sampler.frames, bundle)
    record = sampler.record()
    store.finish(sequence.name, record)
    kept = record["networks"].items()
    counts = ", ".join(f"{name} {len(entry['samples'])} of {entry['seen']}" for name, entry in kept)
    logger.info("%s: calls kept: %s", sequence.name, counts)
    return record


class EncoderInputs(WatchedBackend):
    """A backend that shows what DINO and the decoder would get.

    Nothing runs that their inputs do not need: DINO only for the decoder's, and no other network at all.
    """

    def __init__(self, backend: Backend, saw: Saw, *, decoded: bool) -> None:
        super().__init__(backend, saw)
        self._decoded = decoded

    def runner(self, network: NetworkName) -> Runner:
        """DINO's runner, or one that computes nothing."""
        run = self._backend.runner("dino") if network == "dino" and self._decoded else None
        outputs = [tensor.name for tensor in network_specs(self.model)[network].outputs]

        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            if network in PI3:
                self._saw(network, inputs, {})
            # What does not run gives its input on: nobody reads it, but there is a frame for a frame.
            return dict.fromkeys(outputs, next(iter(inputs.values()))) if run is None else run(inputs)

        return call


class _VideoSampler:
    """Sees the calls of one video."""

    def __init__(
        self,
        arrays: Arrays,
        entries: Mapping[NetworkName, BundleNetwork],
        sequence: SequenceInput,
        store: SampleStore,
        settings: Mapping[str, Any],
    ) -> None:
        self._arrays = arrays
        self._entries = entries
        self._video = sequence.name
        self._store = store
        self._settings = settings
        frames = [count for count in (sequence.frame_count_estimate, settings["frames"]) if count]
        self.expected = min(frames, default=None)
        """Frames that the video will have, as far as that is known."""
        self.frames = 0
        """Frames of the video so far."""
        self._motion = {name: _Motion() for name in entries}
        self._chosen = {
            name: BalancedSample(
                settings["samples"],
                settings["bytes"],
                zlib.crc32(f"{settings['seed']} {name} {sequence.name}".encode()),
            )
            for name in entries
        }

    def saw(self, network: NetworkName, inputs: Mapping[str, Array], _outputs: Mapping[str, Array]) -> None:
        """Keep the inputs of a call, or not."""
        if network == "dino":
            self.frames += int(inputs["frames"].shape[0])
        if network not in self._entries:
            return
        entry, chosen = self._entries[network], self._chosen[network]
        size = sum(
            array.nbytes if isinstance(array, np.ndarray) else self._arrays.nbytes(array)
            for array in inputs.values()
        )
        kept, gone = chosen.offer(self._kind(entry, inputs, chosen.seen), size)
        for item in gone:
            self._store.path(self._video, network, item.index).unlink(missing_ok=True)
        if kept is not None:
            self._store.write(self._video, network, kept.index, self._on_host(entry, inputs))

    def record(self) -> dict[str, Any]:
        """What was kept, as JSON values.

        Raises:
            GmosError: a network was called, and none of its calls fits into the limits.
        """
        for name, chosen in self._chosen.items():
            if chosen.seen and not chosen.kept and self._settings["samples"]:
                raise GmosError(
                    f"--max_bytes leaves {self._settings['bytes']} bytes for {name} of each video, and no call of it "
                    "is that small; give more, or name fewer --networks"
                )
        return {
            "settings": dict(self._settings),
            "frames": self.frames,
            "networks": {
                name: {
                    "seen": chosen.seen,
                    "samples": [
                        {
                            "file": self._store.path(self._video, name, kept.index).name,
                            "index": kept.index,
                            "kind": kept.kind,
                            "bytes": kept.size,
                        }
                        for kept in chosen.kept
                    ],
                }
                for name, chosen in self._chosen.items()
            },
        }

    def _kind(self, entry: BundleNetwork, inputs: Mapping[str, Array], index: int) -> tuple[int, ...]:
        """What a call is like: of the tracker its lengths, of the others its time and how much has moved."""
        lengths = call_lengths(entry.inputs, inputs)
        if "O" in lengths:
            return (lengths["O"], lengths.get("R", 0), -(-lengths.get("P", 0) // POINTER_STEP))
        part = min(TIME_PARTS * index // (self.expected or 1), TIME_PARTS - 1)
        return (part, self._motion[entry.name].level(self._host(inputs[entry.inputs[0].name])))

    def _on_host(self, entry: BundleNetwork, inputs: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
        found = {tensor.name: self._host(inputs[tensor.name]) for tensor in entry.inputs}
        halves = {tensor.name for tensor in entry.inputs if tensor.dtype == "float16"}
        return {
            name: values.astype("float16") if name in halves else values for name, values in found.items()
        }

    def _host(self, array: Array) -> NDArray[Any]:
        return array if isinstance(array, np.ndarray) else self._arrays.download(array)


class _Motion:
    """Tells stillness from motion by how much the input of a network changes from call to call."""

    def __init__(self) -> None:
        self._before: NDArray[np.float32] | None = None
        self._sum = 0.0
        self._count = 0

    def level(self, values: NDArray[Any]) -> int:
        """0 still, 1 as usual, 2 fast."""
        flat = values.reshape(-1)
        glance = flat[:: max(1, flat.size // GLANCE)].astype(np.float32)
        before, self._before = self._before, glance
        if before is None or before.shape != glance.shape:
            return 1
        change = float(np.abs(glance - before).mean())
        self._sum += change
        self._count += 1
        usual = self._sum / self._count
        return int(np.searchsorted(MOTION_LEVELS, change / usual)) if usual else 0
