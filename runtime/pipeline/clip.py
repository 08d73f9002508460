"""The pipeline: one video in, an answer a frame out. Everything that drives the networks over a video calls this."""

from __future__ import annotations

import itertools
import time
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..backend import Backend
from ..contract import Variant
from ..frame_result import RESULTS, CompactMap, FrameResult, MapName, ResultName
from ..progress import Advance, NoProgress, Progress
from ..tracker import FrameFeatures
from ..video.prefetch import Prefetched
from ..video.sequence import Frame, FrameReader, SequenceInput
from ..watch import Watch, doing, watched_call, watched_items
from .encode import EncodedBatch, FrameEncoder, PreparedFrame, WindowEncoder, frame_preparer
from .feature_store import FeatureStore
from .finite_check import CheckedTracker, FiniteCheck
from .first_pass import FirstPass, FirstPassFile
from .label_store import LabelStore
from .memory_tracker import make_tracker
from .options import PREFETCH_FRAMES, RunOptions, prepare_workers
from .proposals import Proposals
from .propose import encode_features, foreground, propose
from .sparse.encoder import SparseEncoder
from .sparse.look_back import KeptPixels, LookBack, split_budget
from .sparse.windows import Windows
from .stage_off import StageOff, stage2_prompts
from .stage_on import OnFrame, StageOn, TrackedVideo


@dataclass(slots=True, kw_only=True)
class ClipSummary:
    """What happened to one video so far. Seconds by stage are wall time; `feature_bytes` by place.

    `moving_frames` counts frames with motion; `conditioning_memories` are the most that an object has in stage 2.
    They and the numbers of objects are None for GMOS-S, and those of stage 2 where it is left out. `proposed_frames`
    were proposed, `decoded_frames` went through the Pi3 decoder; None where all were. `not_finite` counts frames with
    values that are not finite, by network, where a run goes on in spite of them.
    """

    frames: int = 0
    mos_i_objects: int | None = None
    mos_objects: int | None = None
    conditioning_memories: int | None = None
    moving_frames: int = 0
    proposed_frames: int | None = None
    decoded_frames: int | None = None
    stage_s: dict[str, float] = field(default_factory=dict)
    feature_bytes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    not_finite: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracks:
    """GMOS between its stages: what the proposer found, and what each stage of the propagator made of it.

    `mos` is None where only MOS-I was asked for.
    """

    proposals: Proposals
    mos_i: TrackedVideo
    mos: TrackedVideo | None

    def answer(self, index: int, time_s: float) -> FrameResult:
        """The answer on a frame."""
        maps: dict[MapName, CompactMap] = {"mos-i": self.mos_i.mos_i(index)}
        ious: dict[MapName, NDArray[np.float32]] = {"mos-i": self.mos_i.ious[index]}
        if self.mos is not None:
            maps["mos"], ious["mos"] = self.mos.labels.compact(index), self.mos.ious[index]
        return FrameResult(index=index, time_s=time_s, maps=maps, ious=ious)


AfterTracking = Callable[[FrameFeatures, Tracks], None]
"""Called when a video has been tracked, while the features of its frames are still there."""


class ClipRun:
    """One run over one video: iterate over it once, and close the iterator if you stop early.

    Args:
        backend: runs the networks; not closed.
        sequence: the checked input. How many frames it has is not needed before the last one has come.
        options: how to run.
        progress: hears of every stage.
        watch: hears what every thread does.
        with_rgb: give answers their frames. GMOS decodes the video a second time for them: tracks are known
            only after the whole video, and its frames take far more memory than a second look costs time.
        frames: at most so many frames from the start; None: all.
        after_tracking: see `AfterTracking`.
        first_pass: of GMOS, where the first pass is kept once it is done, and found again.
    """

    def __init__(
        self,
        backend: Backend,
        sequence: SequenceInput,
        options: RunOptions | None = None,
        *,
        progress: Progress | None = None,
        watch: Watch | None = None,
        with_rgb: bool = False,
        frames: int | None = None,
        after_tracking: AfterTracking | None = None,
        first_pass: FirstPassFile | None = None,
    ) -> None:
        self.summary = ClipSummary(notes=list(sequence.notes))
        self.tracks: Tracks | None = None
        """Of GMOS, once the first answer is there."""
        self._backend = backend
        self._sequence = sequence
        self._options = options or RunOptions()
        self._progress = progress or NoProgress()
        self._watch = watch
        self._with_rgb = with_rgb
        self._limit = frames
        self._after_tracking = after_tracking
        self._first_pass = first_pass
        self._check = FiniteCheck(
            video=sequence.name, allowed=self._options.allow_nonfinite, found=self.summary.not_finite
        )
        self.changes: list[float] = []
        """With a threshold on it, how much tokens change from each frame with geometry to the next."""
        self.first_pass_kept = False
        """Whether a resumed run would find the first pass of this one."""

    def __iter__(self) -> Generator[FrameResult, None, None]:
        """Answers in frame order; GMOS's begin when the whole video has been tracked.

        Raises:
            GmosError: the video or the device turned out to be unusable.
        """
        self._options.require(self.variant)
        return self._gmos() if self.variant == "gmos" else self._gmos_s()

    @property
    def variant(self) -> Variant:
        """GMOS or GMOS-S."""
        return self._backend.model.variant

    @property
    def video_hw(self) -> tuple[int, int]:
        """Height and width of the video in pixels."""
        return self._sequence.video_hw

    def encoded(self) -> Iterator[EncodedBatch]:
        """Only the encoders, batch by batch; no head runs and nothing is tracked."""
        with self._stage("encode") as advance, self._prepared() as frames:
            for batch in self._encoder().run(frames):
                yield batch
                advance(len(batch.frames))

    def _gmos_s(self) -> Generator[FrameResult, None, None]:
        summary, video_hw = self.summary, self._sequence.video_hw
        with self._stage("segment") as advance, self._prepared() as frames:
            answers = foreground(
                frames,
                self._encoder(),
                self._backend,
                video_hw=video_hw,
                advance=advance,
                check=self._check,
            )
            for answer in answers:
                frame = answer.frame
                summary.frames += 1
                summary.moving_frames += bool(answer.mask.any())
                yield FrameResult(
                    index=frame.index,
                    time_s=frame.time_s,
                    maps={"foreground": answer.mask, "probability": answer.probability},
                    rgb=frame.rgb if self._with_rgb else None,
                )

    def _gmos(self) -> Generator[FrameResult, None, None]:
        tracks, times_s = self._track()
        self.tracks = tracks
        count = len(times_s)
        answers: Generator[FrameResult, None, None] = (
            tracks.answer(index, times_s[index]) for index in range(count)
        )
        if self._with_rgb:
            answers = with_frames(answers, count, self._sequence, depth=self._options.prefetch_frames)
        with self._stage("write", count) as advance, closing(answers):
            for answer in answers:
                yield answer
                advance(1)

    def _track(self) -> tuple[Tracks, Sequence[float]]:
        """Both stages of the propagator on the proposals of all frames, and the times of these in seconds."""
        sequence, backend, summary, options = self._sequence, self._backend, self.summary, self._options
        passes_over = options.levers.propose_every > 1
        budget, pixel_budget = options.feature_budget(backend.arrays), None
        if passes_over:
            budget, pixel_budget = split_budget(budget)
        with FeatureStore(backend.arrays, budget) as store, KeptPixels(pixel_budget) as pixels:
            seen = _Seen(checked=self._first_pass is not None)
            first = None if self._first_pass is None else self._first_pass.load(sequence.video_hw)
            if first is None:
                with self._stage("propose") as advance, self._prepared() as frames:
                    proposals = propose(
                        pixels.noted(seen.noted(frames)),
                        self._encoder(),
                        backend,
                        store,
                        video_hw=sequence.video_hw,
                        advance=advance,
                        check=self._check,
                    )
            else:
                proposals = first.proposals
                summary.notes.append("proposals and MOS-I are those of the run that was resumed")
                with self._stage("encode") as advance, self._prepared() as frames:
                    encode_features(
                        seen.noted(frames), backend, store, batch_size=options.batch_size, advance=advance
                    )
                self._require_same(first, seen)
            count = summary.frames = len(proposals)
            summary.feature_bytes = {
                "device": store.device_bytes,
                "host": store.host_bytes,
                "disk": store.disk_bytes,
            }
            made = make_tracker(
                backend,
                store,
                frames=count,
                video_hw=sequence.video_hw,
                max_conditioning=options.max_conditioning,
                look_back=options.levers.propose_every - 1,
            )
            tracker = CheckedTracker(made, self._check)
            if first is None:
                look_back = self._look_back(store, pixels, proposals) if passes_over else None
                with self._stage("track MOS-I", count) as advance:
                    mos_i = StageOn(
                        proposals, tracker, options.thresholds, self._on_frame(advance), look_back
                    ).run()
                first = FirstPass(
                    proposals=proposals, mos_i=mos_i, times_s=seen.times_s, checksum=seen.checksum
                )
                if self._first_pass is not None:
                    self._first_pass.save(first)
            self.first_pass_kept = self._first_pass is not None
            if proposals.known is not None:
                summary.proposed_frames = int(proposals.known.sum())
            mos = None
            if not options.mos_i_only:
                self._check_conditioning(first.mos_i)
                with self._stage("track MOS", count) as advance:
                    mos = StageOff(
                        proposals, first.mos_i, tracker, options.thresholds, self._on_frame(advance)
                    ).run()
                summary.mos_objects = mos.objects
            summary.mos_i_objects = int(first.mos_i.moving.any(axis=0).sum())
            summary.moving_frames = int(first.mos_i.moving.any(axis=1).sum())
            tracks = Tracks(proposals=proposals, mos_i=first.mos_i, mos=mos)
            if self._after_tracking is not None:
                self._after_tracking(store, tracks)
        return tracks, first.times_s

    def _check_conditioning(self, mos_i: TrackedVideo) -> None:
        """End before stage 2 if its objects have more conditioning memories than the networks take."""
        limit = self._options.conditioning_limit
        counts = Counter(o for _, o in stage2_prompts(mos_i, self._options.thresholds))
        most = self.summary.conditioning_memories = max(counts.values(), default=0)
        most = min(most, self._options.max_conditioning or most)
        if limit is not None and most > limit.most:
            raise GmosError(
                f"{self._sequence.name}: an object has {most} conditioning memories, and {limit.problem}; {limit.ways}"
            )

    def _require_same(self, first: FirstPass, seen: _Seen) -> None:
        if (len(first.times_s), first.checksum) != (len(seen.times_s), seen.checksum):
            now, then = len(seen.times_s), len(first.times_s)
            difference = "its frames differ" if now == then else f"{now} frames now, {then} then"
            raise GmosError(
                f"{self._sequence.path} is another video than the one whose first pass was kept ({difference}); use "
                "--overwrite"
            )

    @contextmanager
    def _prepared(self) -> Iterator[Iterable[PreparedFrame]]:
        """Decoded frames with their Pi3 version, made in threads ahead of use."""
        watch, depth = self._watch, self._options.prefetch_frames
        model = self._options.levers.sized(self._backend.model)
        prepare = watched_call(watch, frame_preparer(model, self._sequence.video_hw), "prepare")
        with self._sequence.open() as reader:
            frames = first_frames(reader, self._limit)
            read = watched_items(watch, frames, "decode")
            with Prefetched(read, depth=depth, transform=prepare, workers=prepare_workers()) as prepared:
                yield watched_items(watch, prepared, "wait for frames")
        self.summary.notes += reader.notes

    def _encoder(self) -> FrameEncoder:
        levers, stride = self._options.levers, self._sequence.stride
        batch_size = self._options.batch_size
        if levers.dense:
            return WindowEncoder(self._backend, stride=stride, batch_size=batch_size)
        windows = self._windows(batch_size)
        self.changes = windows.changes
        return SparseEncoder(windows, stride=stride, levers=levers)

    def _windows(self, batch_size: int) -> Windows:
        def decoded(count: int) -> None:
            self.summary.decoded_frames = (self.summary.decoded_frames or 0) + count

        return Windows(self._backend, stride=self._sequence.stride, batch_size=batch_size, on_decoded=decoded)

    def _look_back(self, store: FeatureStore, pixels: KeptPixels, proposals: Proposals) -> LookBack:
        windows = self._windows(self._options.batch_size)
        return LookBack(windows, store, pixels, proposals, check=self._check)

    def _on_frame(self, advance: Advance) -> OnFrame:
        """What a stage of the tracker calls after each frame, with the frame and the number of objects."""
        watch = self._watch
        done: set[int] = set()

        def tracked(frame: int, objects: int) -> None:
            if watch is not None:
                watch.tracked(objects)
            # Stage 2 goes both ways from a frame that it sees twice.
            advance(int(frame not in done))
            done.add(frame)

        return tracked

    @contextmanager
    def _stage(self, name: str, frames: int | None = None) -> Iterator[Advance]:
        start = time.monotonic()
        known = self._sequence.frame_count_estimate if frames is None else frames
        if known is not None and self._limit is not None:
            known = min(known, self._limit)
        stage = self._progress.stage(f"{self._sequence.name}: {name}", known)
        with stage as advance, doing(self._watch, f"stage {name}"):
            yield advance
            self._backend.arrays.synchronize()
        self.summary.stage_s[name] = time.monotonic() - start


class _Seen:
    """Notes the times of the frames that pass, and a checksum of them if it will be asked for."""

    def __init__(self, *, checked: bool) -> None:
        self.times_s: list[float] = []
        self.checksum = 0
        self._checked = checked

    def noted(self, frames: Iterable[PreparedFrame]) -> Iterator[PreparedFrame]:
        """The same frames."""
        for frame in frames:
            self.times_s.append(frame.time_s)
            if self._checked:
                self.checksum = zlib.crc32(np.ascontiguousarray(frame.pi3_rgb).data, self.checksum)
            yield frame


def first_frames(reader: FrameReader, limit: int | None) -> Generator[Frame, None, None]:
    """The first frames of a reader, all where `limit` is None; its iterator is closed with this one."""
    frames = iter(reader)
    try:
        yield from itertools.islice(frames, limit)
    finally:
        close = getattr(frames, "close", None)
        if close is not None:
            close()


def with_frames(
    answers: Iterable[FrameResult], count: int, sequence: SequenceInput, *, depth: int = PREFETCH_FRAMES
) -> Generator[FrameResult, None, None]:
    """The `count` answers on a whole video with their frames, which are read once more.

    Raises:
        GmosError: there are fewer frames than answers.
    """
    given = 0
    with (
        sequence.open() as reader,
        Prefetched(reader, depth=depth, transform=lambda frame: frame) as frames,
    ):
        for answer in answers:
            frame = next(frames, None)
            if frame is None:
                raise GmosError(
                    f"{sequence.path} had {count} frames and has {given} now: it changed during the run"
                )
            yield replace(answer, rgb=frame.rgb)
            given += 1


def label_maps(run: ClipRun) -> dict[ResultName, LabelStore]:
    """All label maps of a run by result; runs it."""
    stores: dict[ResultName, LabelStore] = {}
    for answer in run:
        for name in (one for one in RESULTS[run.variant] if one in answer.maps):
            stores.setdefault(name, LabelStore(0, run.video_hw)).append(answer.values(name))
    return stores
