"""Both sides through one video in step: every stage of B gets what the same stage of A got."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ...runtime.arrays import Array, Arrays, HostArray, SimpleArrays
from ...runtime.backend import Backend, BringsTracker, Runner
from ...runtime.bundle.uploading import upload_as
from ...runtime.comparison.parity import OutputDifference, difference
from ...runtime.contract import HEADS, NetworkName
from ...runtime.pipeline.clip import ClipRun, Tracks
from ...runtime.pipeline.memory_tracker import make_tracker
from ...runtime.pipeline.options import RunOptions
from ...runtime.pipeline.proposals import ProposalCollector
from ...runtime.pipeline.stage_off import StageOff
from ...runtime.pipeline.stage_on import StageOn
from ...runtime.precision import PrecisionName
from ...runtime.progress import Advance, Progress
from ...runtime.tracker import FrameFeatures
from ...runtime.video.sequence import SequenceInput
from .head_agreement import ForegroundFrame, compare_foreground, gmos_s_stage, proposer_stage
from .mask_agreement import Labels, MaskLimits, sequence_agreement
from .stage_agreement import StageAgreement, encoder_stage, tracker_stage

ENCODERS: Mapping[str, tuple[str, ...]] = {"pi3": ("geometry",), "sam2_encoder": ("s0", "s1", "f")}
"""The encoding stages with their outputs; both get the frames of the video."""

ENCODING: Mapping[NetworkName, str | None] = {
    "sam2_resize": None,
    "dino": None,
    "pi3_decoder": "pi3",
    "sam2_encoder": "sam2_encoder",
}
"""Networks that both sides run on what they made themselves, with the stage that ends with each."""

MAPS: tuple[NetworkName, ...] = ("proposal_labels", "foreground_map")
"""Networks that draw what the heads answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forcing:
    """One video for both sides. `names` are its frames in the results."""

    sequence: SequenceInput
    names: Sequence[str]
    profile: PrecisionName
    limits: MaskLimits
    progress: Progress

    def stage(self, name: str) -> AbstractContextManager[Advance]:
        """A stage on the progress."""
        return self.progress.stage(f"{self.sequence.name}: teacher-forced {name}", len(self.names))

    def name(self, index: int) -> str:
        """The name of a frame.

        Raises:
            GmosError: the video has more frames than its masks.
        """
        if index >= len(self.names):
            raise GmosError(
                f"{self.sequence.path} had {len(self.names)} frames and has more now: it changed meanwhile"
            )
        return self.names[index]


class CrossedFeatures:
    """A's stored features as B's tracker reads them. Implements `FrameFeatures`; the last frame is kept."""

    def __init__(self, features: FrameFeatures, cross: Callable[[str, Array], Array]) -> None:
        self._features = features
        self._cross = cross
        self._last: tuple[int, dict[str, Array]] | None = None

    def get(self, frame: int) -> Mapping[str, Array]:
        """See `FrameFeatures`."""
        if self._last is None or self._last[0] != frame:
            arrays = self._features.get(frame).items()
            self._last = (frame, {name: self._cross(name, array) for name, array in arrays})
        return self._last[1]


@dataclass(frozen=True, slots=True)
class Pair:
    """An array of both sides."""

    a: Array
    b: Array


class PairedArrays(SimpleArrays):
    """Arrays of both sides while frames are encoded, A's alone from then on. Implements `Arrays`."""

    def __init__(self, a: Arrays, b: Arrays) -> None:
        self._a = a
        self._b = b
        self.from_host, self.free_bytes = a.from_host, a.free_bytes

    def upload(self, host: NDArray[np.generic]) -> Pair:
        """To both."""
        return Pair(self._a.upload(host), self._b.upload(host))

    def download(self, array: Array) -> NDArray[Any]:
        """A's values."""
        return self._a.download(first_of(array))

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Pairs to a pair."""
        first = self._a.stack([first_of(array) for array in arrays])
        if all(isinstance(array, Pair) for array in arrays):
            return Pair(first, self._b.stack([pair.b for pair in arrays]))
        return first

    def unstack(self, array: Array) -> Sequence[Array]:
        """A pair to pairs."""
        first = self._a.unstack(first_of(array))
        if isinstance(array, Pair):
            return [Pair(*both) for both in zip(first, self._b.unstack(array.b), strict=True)]
        return first

    def nbytes(self, array: Array) -> int:
        """Of A."""
        return self._a.nbytes(first_of(array))

    def to_host(self, array: Array) -> HostArray:
        """Of A."""
        return self._a.to_host(first_of(array))

    def synchronize(self) -> None:
        """Both."""
        self._a.synchronize()
        self._b.synchronize()


def first_of(array: Array) -> Array:
    """A's side of an array."""
    return array.a if isinstance(array, Pair) else array


HearsHeads = Callable[[Mapping[str, Array], Mapping[str, Array]], None]
"""Gets what the heads of A and of B answered on a batch, and the maps drawn of it."""


class ForcedBackend:
    """A's networks, and B's beside them in the same run of the pipeline. Implements `Backend`.

    Both encode the video's frames, each on what it made of them itself; what the encoders answer is compared.
    Each head of B gets what A's encoders answered. What is tracked is A's alone.
    """

    def __init__(self, a: Backend, b: Backend, forcing: Forcing, heard: HearsHeads) -> None:
        self.model, self.description = a.model, f"{a.description}; {b.description}"
        self.arrays = PairedArrays(a.arrays, b.arrays)
        self._dtypes: dict[str, str] = {}
        self._a = a
        self._b = b
        self._forcing = forcing
        self._heard = heard
        self._found: dict[str, list[tuple[str, OutputDifference]]] = {name: [] for name in ENCODERS}
        self._answers: tuple[Mapping[str, Array], Mapping[str, Array]] = ({}, {})
        if isinstance(a, BringsTracker):
            # An attribute of the object: whether a backend brings a tracker is asked by whether it has one.
            self.tracker = a.tracker

    def runner(self, network: NetworkName) -> Runner:
        """A's runner, with B's beside it where that is a stage of its own."""
        run_a = self._a.runner(network)
        if network not in (*ENCODING, *HEADS, *MAPS):
            return lambda inputs: run_a({name: first_of(array) for name, array in inputs.items()})
        run_b = self._b.runner(network)

        def encode(inputs: Mapping[str, Any]) -> dict[str, Array]:
            outputs_a = run_a({name: array.a for name, array in inputs.items()})
            outputs_b = run_b({name: array.b for name, array in inputs.items()})
            stage = ENCODING[network]
            if stage is None:
                return {name: Pair(array, outputs_b[name]) for name, array in outputs_a.items()}
            self._compare(stage, outputs_a, outputs_b)
            for name, array in outputs_b.items():
                if name not in self._dtypes:
                    self._dtypes[name] = self._b.arrays.to_host(array).dtype
            return outputs_a

        def answer(inputs: Mapping[str, Any]) -> dict[str, Array]:
            outputs = run_a(inputs)
            crossed = {name: self.cross(name, array) for name, array in inputs.items()}
            self._answers = (outputs, run_b(crossed))
            return outputs

        def draw(inputs: Mapping[str, Any]) -> dict[str, Array]:
            outputs = run_a(inputs)
            own = {name: self._answers[1].get(name, value) for name, value in inputs.items()}
            self._heard({**self._answers[0], **outputs}, {**self._answers[1], **run_b(own)})
            return outputs

        return encode if network in ENCODING else answer if network in HEADS else draw

    def cross(self, name: str, array: Array) -> Array:
        """An array of B with the values of one of A that has this contract name, in the dtype of B's own."""
        return upload_as(self._b.arrays, self._a.arrays.download(array), self._dtypes[name])

    def close(self) -> None:
        """Both sides stay open."""

    def stages(self) -> list[StageAgreement]:
        """The encoders' agreement over all frames so far."""
        name, profile = self._forcing.sequence.name, self._forcing.profile
        return [encoder_stage(stage, name, found, profile) for stage, found in self._found.items()]

    def _compare(self, stage: str, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> None:
        pairs = {
            name: (self._a.arrays.download(ours[name]), self._b.arrays.download(theirs[name]))
            for name in ENCODERS[stage]
        }
        done = len(self._found[stage]) // len(pairs)
        for position in range(len(next(iter(pairs.values()))[0])):
            frame = self._forcing.name(done + position)
            for output, (values_a, values_b) in pairs.items():
                found = difference(values_b[position], values_a[position], output=output)
                self._found[stage].append((frame, found))


def forced_stages(a: Backend, b: Backend, forcing: Forcing) -> list[StageAgreement]:
    """Every stage of one video, B's on A's inputs.

    Args:
        a: the trusted side.
        b: the side in question, of the same model; both stay open.
        forcing: the video.

    Raises:
        GmosError: the video has changed since its masks were made, or cannot be read.
    """
    return (_forced_gmos if a.model.variant == "gmos" else _forced_gmos_s)(a, b, forcing)


def _forced_gmos(a: Backend, b: Backend, forcing: Forcing) -> list[StageAgreement]:
    sequence, options, limits = forcing.sequence, RunOptions(allow_nonfinite=True), forcing.limits
    collector = ProposalCollector(sequence.video_hw)
    found: list[StageAgreement] = []

    def heard(_: Mapping[str, Array], answers: Mapping[str, Array]) -> None:
        columns = (b.arrays.download(answers[name]) for name in ("labels", "motion_logits", "ious"))
        for answer in zip(*columns, strict=True):
            collector.add(*answer)

    backend = ForcedBackend(a, b, forcing, heard)

    def again(features: FrameFeatures, tracks: Tracks) -> None:
        """Both stages of the propagator by B, on A's features and proposals; the second also on A's first."""
        proposals, whole = tracks.proposals, tracks.mos
        if whole is None:
            raise ValueError("this run has no second pass")
        both = (proposals, collector.finish())
        proposer = proposer_stage(sequence.name, forcing.names, both, "teacher_forced", limits)
        found.extend((*backend.stages(), proposer))
        crossed = CrossedFeatures(features, backend.cross)
        tracker = make_tracker(b, crossed, frames=len(proposals), video_hw=sequence.video_hw)
        with forcing.stage("MOS-I") as advance:
            mos_i = StageOn(proposals, tracker, options.thresholds, lambda *_: advance(1)).run()
        with forcing.stage("MOS") as advance:
            stage = StageOff(proposals, tracks.mos_i, tracker, options.thresholds, lambda *_: advance(1))
            mos = stage.run()

        def read_mos_i(index: int) -> tuple[Labels, Labels]:
            return tracks.mos_i.mos_i(index).unpack(), mos_i.mos_i(index).unpack()

        def read_mos(index: int) -> tuple[Labels, Labels]:
            return whole.labels[index], mos.labels[index]

        for result, read in (("mos-i", read_mos_i), ("mos", read_mos)):
            agreement = sequence_agreement(sequence.name, result, forcing.names, read)
            found.append(tracker_stage(agreement, "teacher_forced", limits))

    run = ClipRun(backend, sequence, options, progress=forcing.progress, after_tracking=again)
    for _ in run:
        pass
    return found


def _forced_gmos_s(a: Backend, b: Backend, forcing: Forcing) -> list[StageAgreement]:
    frames: list[ForegroundFrame] = []

    def heard(*answers: Mapping[str, Array]) -> None:
        sides = list(zip((a.arrays, b.arrays), answers, strict=True))
        logits = [arrays.download(maps["foreground_logits"]) for arrays, maps in sides]
        masks = [arrays.download(maps["mask"]) for arrays, maps in sides]
        for of_frame in zip(zip(*logits, strict=True), zip(*masks, strict=True), strict=True):
            frames.append(compare_foreground(forcing.name(len(frames)), *of_frame))

    backend = ForcedBackend(a, b, forcing, heard)
    options = RunOptions(allow_nonfinite=True)
    for _ in ClipRun(backend, forcing.sequence, options, progress=forcing.progress):
        pass
    name, limits = forcing.sequence.name, forcing.limits
    return [*backend.stages(), gmos_s_stage(name, frames, "teacher_forced", limits)]
