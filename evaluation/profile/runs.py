"""A video through the whole pipeline by one side: stages, threads, tracker, start-up and memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...runtime.backend import Backend
from ...runtime.contract import network_specs
from ...runtime.pipeline.clip import ClipRun, ClipSummary
from ...runtime.pipeline.options import RunOptions
from ...runtime.progress import Advance, Progress
from ...runtime.results.completion import ResultSet
from ...runtime.results.outputs import file_results
from ...runtime.video.sequence import SequenceInput
from ...sides import Side
from ..progress_bar import run_progress
from .machine import GpuMonitor, GpuUse, forget_peak, peak_mib, resident_mib
from .roofline import on_gpu
from .timeline import (
    ActivityTime,
    Overlap,
    Span,
    SpanRecorder,
    TracedBackend,
    TrackerTime,
    activities,
    overlap,
    tracker_times,
)


@dataclass(frozen=True, slots=True)
class NetworkShare:
    """The calls of a network within a run, each waited for."""

    network: str
    calls: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRun:
    """The pipeline on a video by one side.

    Of the undisturbed run: `stage_s`, wall time by stage; `first_frames_s`, from its start until the first
    frames were done; `waited_s`, what the networks waited for frames; `tracker`, each tracked frame. Of a
    second run, in which each call is waited for: `networks`, `activities`, `overlap` and `spans`.

    `load_s` is reading and preparing all networks. `peak_mib` is the greatest resident memory of the
    process from loading to the end, `base_mib` what it held before. `device_mib` is what the GPU held more
    at its peak than before loading, or where nobody tells, what was free before the run and not after it;
    None on a CPU.
    """

    side: str
    description: str
    variant: str
    frames: int
    load_s: float
    first_frames_s: float
    stage_s: Mapping[str, float]
    waited_s: float
    tracker: tuple[TrackerTime, ...]
    networks: tuple[NetworkShare, ...]
    activities: tuple[ActivityTime, ...]
    overlap: Overlap
    spans: tuple[Span, ...]
    peak_mib: float
    base_mib: float | None
    device_mib: float | None
    gpus: tuple[GpuUse, ...]

    @property
    def frames_per_second(self) -> float:
        """End to end, decoding and writing included, loading not."""
        total_s = sum(self.stage_s.values())
        return self.frames / total_s if total_s else 0.0


def profile_video(side: Side, sequence: SequenceInput) -> VideoRun:
    """Load a side and run a video twice: undisturbed, then with every network call waited for."""
    forget_peak()
    base_mib = resident_mib()
    with GpuMonitor() as monitor:
        start = time.perf_counter()
        backend = side.load()
        with closing(backend):
            for name in network_specs(backend.model):
                # Some backends load a network when it is first asked for.
                backend.runner(name)
            load_s = time.perf_counter() - start
            free_bytes = backend.arrays.free_bytes()
            with run_progress() as progress:
                plain, first = SpanRecorder(), FirstFrames(progress)
                options = side.options(RunOptions())
                summary = _run(sequence, backend, options, plain, first)
            taken_mib = max(0, free_bytes - backend.arrays.free_bytes()) / 2**20
            with run_progress() as progress:
                traced = SpanRecorder()
                _run(sequence, TracedBackend(backend, traced), options, traced, progress)
            device_mib = _device_mib(monitor, taken_mib) if on_gpu(backend) else None
            return VideoRun(
                side=side.text,
                description=backend.description,
                variant=backend.model.variant,
                frames=summary.frames,
                load_s=load_s,
                first_frames_s=first.seconds or 0.0,
                stage_s=dict(summary.stage_s),
                waited_s=overlap(plain.spans).waited_s,
                tracker=tracker_times(plain.spans),
                networks=network_shares(traced.spans),
                activities=activities(traced.spans),
                overlap=overlap(traced.spans),
                spans=tuple(traced.spans),
                peak_mib=peak_mib(),
                base_mib=base_mib,
                device_mib=device_mib,
                gpus=monitor.use,
            )


class FirstFrames:
    """A `Progress` that notes when the first frames are done; made when the run starts."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._start_s = time.perf_counter()
        self.seconds: float | None = None

    @contextmanager
    def stage(self, name: str, frames: int | None) -> Iterator[Advance]:
        """See `runtime.progress.Progress`."""
        with self._progress.stage(name, frames) as inner:

            def advance(done: int) -> None:
                if self.seconds is None:
                    self.seconds = time.perf_counter() - self._start_s
                inner(done)

            yield advance


def network_shares(spans: Sequence[Span]) -> tuple[NetworkShare, ...]:
    """Calls and seconds by network, the longest first."""
    found: dict[str, list[float]] = {}
    for span in spans:
        if span.is_network:
            found.setdefault(span.what, []).append(span.seconds)
    shares = (NetworkShare(name, len(taken), sum(taken)) for name, taken in found.items())
    return tuple(sorted(shares, key=lambda share: -share.seconds))


def _device_mib(monitor: GpuMonitor, taken_mib: float) -> float:
    """The greatest growth of a GPU's memory."""
    growths = [
        gpu.memory_peak_mib - gpu.memory_before_mib
        for gpu in monitor.use
        if gpu.memory_peak_mib is not None and gpu.memory_before_mib is not None
    ]
    return max(growths, default=taken_mib)


def _run(
    sequence: SequenceInput,
    backend: Backend,
    options: RunOptions,
    recorder: SpanRecorder,
    progress: Progress,
) -> ClipSummary:
    with tempfile.TemporaryDirectory() as folder:
        results = ResultSet(
            save_dir=Path(folder),
            sequence=sequence.name,
            variant=backend.model.variant,
            modes=frozenset({"mask"}),
            settings=options.settings(),
        )
        run = ClipRun(backend, sequence, options, progress=progress, watch=recorder)
        file_results(iter(run), results, sequence.media, watch=recorder)
    return run.summary
