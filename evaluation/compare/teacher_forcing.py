"""Both sides through one video in step: every stage of B gets what the same stage of A got."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ...errors import GmosError
from ...runtime.arrays import Array
from ...runtime.backend import Backend
from ...runtime.bundle.uploading import upload_as
from ...runtime.parity import OutputDifference, difference
from ...runtime.pipeline.encode import EncodedBatch, PreparedFrame, WindowEncoder, frame_preparer
from ...runtime.pipeline.feature_store import FeatureStore
from ...runtime.pipeline.memory_tracker import make_tracker
from ...runtime.pipeline.proposals import ProposalCollector, Proposals
from ...runtime.pipeline.propose import foreground_head, proposal_head, propose
from ...runtime.pipeline.sequence_run import RunOptions
from ...runtime.pipeline.stage_off import StageOff
from ...runtime.pipeline.stage_on import StageOn
from ...runtime.progress import Progress
from ...runtime.thresholds import PUBLISHED
from ...runtime.tracker import FrameFeatures
from ...runtime.video.reader import open_frames
from ...runtime.video.sequence import SequenceInput
from .foreground_agreement import ForegroundAgreement, compare_foreground
from .limits import MaskLimits, ProfileName
from .mask_agreement import Labels, sequence_agreement
from .proposal_agreement import proposal_agreement
from .stage_agreement import StageAgreement, encoder_stage, gmos_s_stage, proposer_stage, tracker_stage

ENCODERS: Mapping[str, tuple[str, ...]] = {"pi3": ("geometry",), "sam2_encoder": ("s0", "s1", "f")}
"""The encoding stages with their outputs; both get the frames of the video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forcing:
    """One video for both sides. `names` are its frames in the results."""

    sequence: SequenceInput
    names: Sequence[str]
    profile: ProfileName
    limits: MaskLimits
    options: RunOptions
    progress: Progress

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int], None]]:
        """A stage on the progress."""
        title = f"{self.sequence.name}: teacher-forced {name}"
        with self.progress.stage(title, len(self.names)) as advance:
            yield advance


class Crossing:
    """Takes arrays of A to B through the host, in the dtype that B's own have."""

    def __init__(self, a: Backend, b: Backend) -> None:
        self._a, self._b = a.arrays, b.arrays
        self._dtypes: dict[str, str] = {}

    def learn(self, batch: EncodedBatch) -> None:
        """See what B's own arrays are."""
        if not self._dtypes:
            self._dtypes = {name: self._b.to_host(array).dtype for name, array in encoded(batch).items()}

    def __call__(self, name: str, array: Array) -> Array:
        """An array of B with the values of one of A that has this contract name."""
        return upload_as(self._b, self._a.download(array), self._dtypes[name])


class CrossedFeatures:
    """A's stored features as B's tracker reads them. Implements `FrameFeatures`; the last frame is kept."""

    def __init__(self, features: FrameFeatures, cross: Crossing) -> None:
        self._features = features
        self._cross = cross
        self._last: tuple[int, dict[str, Array]] | None = None

    def get(self, frame: int) -> Mapping[str, Array]:
        """See `FrameFeatures`."""
        if self._last is None or self._last[0] != frame:
            arrays = self._features.get(frame).items()
            self._last = (frame, {name: self._cross(name, array) for name, array in arrays})
        return self._last[1]


class StepEncoder(WindowEncoder):
    """Encodes with A; B encodes the same frames to be compared, and gets A's batches.

    Args:
        a: whose batches `run` gives.
        b: the side in question.
        cross: from A to B.
        forcing: the video.
        forced: gets each of A's batches as B's arrays.
    """

    def __init__(
        self,
        a: Backend,
        b: Backend,
        cross: Crossing,
        forcing: Forcing,
        forced: Callable[[EncodedBatch], None],
    ) -> None:
        size = {"stride": forcing.sequence.stride, "batch_size": forcing.options.batch_size}
        super().__init__(a, **size)
        self._backends = (a, b)
        self._encoder_b = WindowEncoder(b, **size)
        self._cross = cross
        self._forced = forced
        self._forcing = forcing
        self._found: dict[str, list[tuple[str, str, OutputDifference]]] = {name: [] for name in ENCODERS}

    def run(self, frames: Iterable[PreparedFrame]) -> Iterator[EncodedBatch]:
        """A's batches; B is done with each when it comes."""
        ours, theirs = itertools.tee(frames)
        for batch, other in zip(super().run(ours), self._encoder_b.run(theirs), strict=True):
            self._compare(batch, other)
            self._cross.learn(other)
            crossed = {name: self._cross(name, array) for name, array in encoded(batch).items()}
            geometry = crossed.pop("geometry")
            self._forced(EncodedBatch(frames=batch.frames, geometry=geometry, features=crossed))
            yield batch

    def stages(self) -> list[StageAgreement]:
        """The encoders' agreement over all batches so far."""
        forcing = self._forcing
        return [
            encoder_stage(stage, forcing.sequence.name, found, forcing.profile)
            for stage, found in self._found.items()
        ]

    def _compare(self, batch: EncodedBatch, other: EncodedBatch) -> None:
        a, b = (backend.arrays for backend in self._backends)
        pairs = {
            name: (a.download(array), b.download(encoded(other)[name]))
            for name, array in encoded(batch).items()
        }
        for position, frame in enumerate(batch.frames):
            name = _name(self._forcing, frame.index)
            for stage, outputs in ENCODERS.items():
                for output in outputs:
                    values_a, values_b = pairs[output]
                    found = difference(values_b[position], values_a[position], output=output)
                    self._found[stage].append((name, output, found))


def encoded(batch: EncodedBatch) -> dict[str, Array]:
    """All arrays of a batch by their contract names."""
    return {"geometry": batch.geometry, **batch.features}


def forced_stages(a: Backend, b: Backend, forcing: Forcing) -> list[StageAgreement]:
    """Every stage of one video, B's on A's inputs.

    Args:
        a: the trusted side.
        b: the side in question, of the same model; both stay open.
        forcing: the video, and what it is held to.

    Raises:
        GmosError: the video has changed since its masks were made, or cannot be read.
    """
    run = _forced_gmos if a.model.variant == "gmos" else _forced_gmos_s
    return run(a, b, forcing)


@contextmanager
def _prepared(a: Backend, forcing: Forcing) -> Iterator[Iterator[PreparedFrame]]:
    with open_frames(forcing.sequence) as frames:
        yield map(frame_preparer(a.model, forcing.sequence.video_hw), frames)


def _name(forcing: Forcing, index: int) -> str:
    if index >= len(forcing.names):
        raise GmosError(
            f"{forcing.sequence.path} had {len(forcing.names)} frames and has more now: it changed meanwhile"
        )
    return forcing.names[index]


def _forced_gmos(a: Backend, b: Backend, forcing: Forcing) -> list[StageAgreement]:
    sequence, options = forcing.sequence, forcing.options
    cross, head = Crossing(a, b), proposal_head(b, sequence.video_hw)
    collector = ProposalCollector(sequence.video_hw)

    def forced(batch: EncodedBatch) -> None:
        for answer in zip(*map(b.arrays.download, head(batch)), strict=True):
            collector.add(*answer)

    encoder = StepEncoder(a, b, cross, forcing, forced)
    with FeatureStore(a.arrays, options.feature_budget(a.arrays)) as store:
        with forcing.stage("proposer") as advance, _prepared(a, forcing) as frames:
            proposals = propose(frames, encoder, a, store, video_hw=sequence.video_hw, advance=advance)
        proposer = proposal_agreement(sequence.name, forcing.names, proposals, collector.finish())
        return [
            *encoder.stages(),
            proposer_stage(proposer, "teacher_forced", forcing.limits),
            *_forced_trackers((a, store), (b, CrossedFeatures(store, cross)), proposals, forcing),
        ]


def _forced_trackers(
    a: tuple[Backend, FrameFeatures],
    b: tuple[Backend, FrameFeatures],
    proposals: Proposals,
    forcing: Forcing,
) -> list[StageAgreement]:
    """Both stages of the propagator on A's features and proposals; the second also on A's first."""
    video_hw, count = forcing.sequence.video_hw, len(proposals)
    trackers = [
        make_tracker(backend, features, frames=count, video_hw=video_hw) for backend, features in (a, b)
    ]
    with forcing.stage("MOS-I") as advance:
        # A frame counts when both trackers have it.
        first = [
            StageOn(proposals, tracker, PUBLISHED, lambda *_, done=done: advance(done)).run()
            for done, tracker in enumerate(trackers)
        ]
    with forcing.stage("MOS") as advance:
        second = [
            StageOff(proposals, first[0], tracker, PUBLISHED, lambda *_, done=done: advance(done)).run()
            for done, tracker in enumerate(trackers)
        ]

    def mos_i(index: int) -> tuple[Labels, Labels]:
        return first[0].mos_i_labels(index), first[1].mos_i_labels(index)

    def mos(index: int) -> tuple[Labels, Labels]:
        return second[0].labels[index], second[1].labels[index]

    return [
        tracker_stage(
            sequence_agreement(forcing.sequence.name, result, forcing.names, read),
            "teacher_forced",
            forcing.limits,
        )
        for result, read in (("mos-i", mos_i), ("mos", mos))
    ]


def _forced_gmos_s(a: Backend, b: Backend, forcing: Forcing) -> list[StageAgreement]:
    video_hw = forcing.sequence.video_hw
    head_a, head_b = foreground_head(a, video_hw), foreground_head(b, video_hw)
    answers: deque[Mapping[str, Array]] = deque()
    encoder = StepEncoder(a, b, Crossing(a, b), forcing, lambda batch: answers.append(head_b(batch)))
    found = []
    with forcing.stage("GMOS-S") as advance, _prepared(a, forcing) as frames:
        for batch in encoder.run(frames):
            maps_a, maps_b = head_a(batch), answers.popleft()
            download_a, download_b = a.arrays.download, b.arrays.download
            logits = download_a(maps_a["foreground_logits"]), download_b(maps_b["foreground_logits"])
            masks = download_a(maps_a["mask"]), download_b(maps_b["mask"])
            for position, frame in enumerate(batch.frames):
                found.append(
                    compare_foreground(
                        _name(forcing, frame.index),
                        (logits[0][position], logits[1][position]),
                        (masks[0][position], masks[1][position]),
                    )
                )
            advance(len(batch.frames))
    agreement = ForegroundAgreement(sequence=forcing.sequence.name, frames=tuple(found))
    return [*encoder.stages(), gmos_s_stage(agreement, "teacher_forced", forcing.limits)]
