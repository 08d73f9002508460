"""One video from frames to filed results, for GMOS and GMOS-S."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import GmosError
from ..arrays import Arrays
from ..backend import Backend
from ..host_memory import free_host_bytes
from ..progress import Advance, Progress
from ..results.completion import Existing, ResultSet
from ..results.outputs import SequenceOutputs
from ..thresholds import PUBLISHED, Thresholds
from ..video.prefetch import Prefetched
from ..video.reader import open_frames
from ..video.sequence import Frame, SequenceInput
from ..watch import Watch, doing, watched_call, watched_items
from .encode import PreparedFrame, WindowEncoder, frame_preparer
from .feature_store import FeatureBudget, FeatureStore
from .memory_tracker import make_tracker
from .propose import foreground, propose
from .stage_off import StageOff
from .stage_on import OnFrame, StageOn, TrackedVideo

FREE_MEMORY_SHARE = 0.25
"""Share of the memory free at the start that features may take, on the device and on the host."""

DEFAULT_BATCH_SIZE = 8
"""Windows per network call (published scripts)."""

PREFETCH_FRAMES = 8
"""Frames decoded and resized ahead of use."""


def prepare_workers() -> int:
    """Threads that resize frames; Pillow's Lanczos filter is the slow step and releases the GIL."""
    return min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run, as opposed to on what and to where.

    `device_budget`, `host_budget` in bytes bound what features of a video may take there; None is a
    quarter of what is free at the start. Features beyond both go to a file in `spill_dir`.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    thresholds: Thresholds = PUBLISHED
    device_budget: int | None = None
    host_budget: int | None = None
    spill_dir: Path | None = None
    prefetch_frames: int = PREFETCH_FRAMES

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise GmosError(f"--batch_size {self.batch_size}: expected at least 1 window")
        for name in ("device_budget", "host_budget"):
            budget = getattr(self, name)
            if budget is not None and budget < 0:
                raise GmosError(f"--{name} {budget}: expected 0 or more")

    def feature_budget(self, arrays: Arrays) -> FeatureBudget:
        """The budget of a run that starts now."""
        device, host = self.device_budget, self.host_budget
        return FeatureBudget(
            device=int(FREE_MEMORY_SHARE * arrays.free_bytes()) if device is None else device,
            host=int(FREE_MEMORY_SHARE * free_host_bytes()) if host is None else host,
            spill_dir=self.spill_dir,
        )


@dataclass(slots=True, kw_only=True)
class SequenceSummary:
    """What happened to one sequence. Seconds by stage are wall time; `feature_bytes` by place."""

    name: str
    frames: int = 0
    mos_i_objects: int | None = None
    mos_objects: int | None = None
    moving_frames: int = 0
    stage_s: dict[str, float] = field(default_factory=dict)
    feature_bytes: dict[str, int] = field(default_factory=dict)
    outputs: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: bool = False


class SequenceRun:
    """Runs one sequence on a backend; made for one run and thrown away."""

    def __init__(
        self,
        sequence: SequenceInput,
        backend: Backend,
        options: RunOptions,
        progress: Progress,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch
        self._sequence = sequence
        self._backend = backend
        self._options = options
        self._progress = progress
        self._summary = SequenceSummary(name=sequence.name, notes=list(sequence.notes))

    def run(self, results: ResultSet, existing: Existing) -> SequenceSummary:
        """Process the video and file its results.

        Raises:
            GmosError: the video, the device or the output place turned out to be unusable; nothing
                is filed then.
        """
        sequence = self._sequence
        with SequenceOutputs(
            results,
            video_hw=sequence.video_hw,
            fps=sequence.output_fps,
            time_base_s=sequence.time_base_s,
            existing=existing,
        ) as outputs:
            if self._backend.model.variant == "gmos":
                self._run_gmos(outputs)
            else:
                self._run_gmos_s(outputs)
            outputs.commit(self._summary.frames)
        self._summary.outputs = [results.save_dir / place for place in results.targets().values()]
        return self._summary

    def _run_gmos_s(self, outputs: SequenceOutputs) -> None:
        summary = self._summary
        with self._stage("segment") as advance, self._prepared() as frames:
            for answer in foreground(
                frames,
                self._encoder(),
                self._backend,
                video_hw=self._sequence.video_hw,
                advance=advance,
            ):
                frame = answer.frame
                with doing(self._watch, "write"):
                    if outputs.wants("mask"):
                        outputs.write_mask("foreground", frame.index, answer.mask)
                    if outputs.wants("prob"):
                        outputs.write_probability(frame.index, answer.probability)
                    if outputs.wants("mp4"):
                        outputs.write_overlay("foreground", frame.rgb, answer.mask, frame.time_s)
                summary.frames += 1
                summary.moving_frames += bool(answer.mask.any())

    def _run_gmos(self, outputs: SequenceOutputs) -> None:
        sequence, summary, thresholds = self._sequence, self._summary, self._options.thresholds
        arrays = self._backend.arrays
        with FeatureStore(arrays, self._options.feature_budget(arrays)) as store:
            with self._stage("propose") as advance, self._prepared() as frames:
                proposals = propose(
                    frames,
                    self._encoder(),
                    self._backend,
                    store,
                    video_hw=sequence.video_hw,
                    advance=advance,
                )
            summary.frames = len(proposals)
            summary.feature_bytes = {
                "device": store.device_bytes,
                "host": store.host_bytes,
                "disk": store.disk_bytes,
            }
            tracker = make_tracker(self._backend, store, frames=len(proposals), video_hw=sequence.video_hw)
            with self._stage("track MOS-I", len(proposals)) as advance:
                stage1 = StageOn(proposals, tracker, thresholds, self._on_frame(advance)).run()
            with self._stage("track MOS", len(proposals)) as advance:
                stage2 = StageOff(proposals, stage1, tracker, thresholds, self._on_frame(advance)).run()
        summary.mos_i_objects = int(stage1.moving.any(axis=0).sum())
        summary.mos_objects = stage2.objects
        summary.moving_frames = int(stage1.moving.any(axis=1).sum())
        self._write_gmos(outputs, stage1, stage2)

    def _write_gmos(self, outputs: SequenceOutputs, stage1: TrackedVideo, stage2: TrackedVideo) -> None:
        count = len(stage1.labels)
        with self._stage("write", count) as advance, self._frames_again(outputs, count) as frames:
            index = -1
            for index, frame in zip(range(count), frames, strict=False):
                with doing(self._watch, "write"):
                    labels = {"mos-i": stage1.mos_i_labels(index), "mos": stage2.labels[index]}
                    for result in ("mos-i", "mos"):
                        if outputs.wants("mask"):
                            outputs.write_mask(result, index, labels[result])
                        if frame is not None:
                            outputs.write_overlay(result, frame.rgb, labels[result], frame.time_s)
                advance(1)
        written = index + 1
        if written != count:
            raise GmosError(
                f"{self._sequence.path} had {count} frames and has {written} now: it changed during the run"
            )

    @contextmanager
    def _frames_again(self, outputs: SequenceOutputs, count: int) -> Iterator[Iterator[Frame | None]]:
        """The frames for the overlays, or as many times None.

        They are decoded a second time: the tracks are known only after the whole video, and the
        frames of a video take far more memory than a second look at the file costs time.
        """
        if not outputs.wants("mp4"):
            yield iter([None] * count)
            return
        with (
            open_frames(self._sequence) as reader,
            Prefetched(reader, depth=self._options.prefetch_frames, transform=lambda frame: frame) as frames,
        ):
            yield iter(frames)

    @contextmanager
    def _prepared(self) -> Iterator[Iterable[PreparedFrame]]:
        """Decoded frames with their Pi3 version, made in a thread ahead of use."""
        watch, depth = self._watch, self._options.prefetch_frames
        prepare = watched_call(watch, frame_preparer(self._backend.model, self._sequence.video_hw), "prepare")
        with (
            open_frames(self._sequence) as reader,
            Prefetched(
                watched_items(watch, reader, "decode"),
                depth=depth,
                transform=prepare,
                workers=prepare_workers(),
            ) as frames,
        ):
            yield watched_items(watch, frames, "wait for frames")
        if reader.is_variable_rate:
            self._summary.notes.append(
                "uneven frame times: the stride follows the average rate, overlays keep the times"
            )

    def _encoder(self) -> WindowEncoder:
        return WindowEncoder(self._backend, stride=self._sequence.stride, batch_size=self._options.batch_size)

    def _on_frame(self, advance: Advance) -> OnFrame:
        """What a stage of the tracker calls after each frame, with the frame and the number of objects."""
        watch = self._watch

        def tracked(_: int, objects: int) -> None:
            if watch is not None:
                watch.tracked(objects)
            advance(1)

        return tracked

    @contextmanager
    def _stage(self, name: str, frames: int | None = None) -> Iterator[Advance]:
        start = time.monotonic()
        known = self._sequence.frame_count_estimate if frames is None else frames
        stage = self._progress.stage(f"{self._sequence.name}: {name}", known)
        with stage as advance, doing(self._watch, f"stage {name}"):
            yield advance
            self._backend.arrays.synchronize()
        self._summary.stage_s[name] = time.monotonic() - start
