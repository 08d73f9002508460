"""The front door: networks loaded once, videos in, frames of masks and objects out."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arguments import telling_arguments, tells_arguments
from .errors import GmosError
from .networks import AUTO, NetworkChoice, PrecisionChoice
from .recipes import with_recipe
from .runtime.contract import Variant
from .runtime.frame_result import FrameResult
from .runtime.levers import EXACT, Levers
from .runtime.live.reading import RECONNECT_S, RESET_AFTER_S, TIMEOUT_S, ReadingOptions
from .runtime.live.session import RETIRE_AFTER_S, LiveSession
from .runtime.live.sources.registry import live_source_of, resolve_live
from .runtime.live.sources.source import Asked
from .runtime.live.threads.frame_queue import Drop
from .runtime.live.threads.reading_thread import ReadingThread
from .runtime.pipeline.clip import ClipRun
from .runtime.pipeline.options import ALL_CONDITIONING, DEFAULT_BATCH_SIZE, RunOptions
from .runtime.pipeline.thresholds import PUBLISHED, Thresholds
from .runtime.progress import Advance
from .runtime.tensorrt.memory import settle_live, settle_run
from .runtime.video.inputs import check_rate, resolve_frames, resolve_inputs, sequence_name
from .runtime.video.sequence import SequenceInput, stride_for_fps
from .streams import Session, answers_from, answers_to, checked_size, played
from .video_result import VideoResult

if TYPE_CHECKING:
    from .runtime.backend import Backend

MIB = 1 << 20

CHECKPOINT_FIELDS = ("pi3", "sam2", "gmos", "gmos_s")

ProgressCallback = Callable[[str, int, int | None], None]
"""Called with a stage's name, how many of its frames are done, and how many there are (None: unknown)."""

Source = str | os.PathLike[str] | Iterable[NDArray[np.uint8]]
"""A video file, a directory of frames, or frames (H, W, 3) uint8 RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """The published checkpoints: Pi3's, SAM2.1's, and that of GMOS or of GMOS-S."""

    pi3: str | os.PathLike[str]
    sam2: str | os.PathLike[str]
    gmos: str | os.PathLike[str] | None = None
    gmos_s: str | os.PathLike[str] | None = None


@tells_arguments
def load(
    bundle: str | os.PathLike[str] | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    variant: Variant | None = None,
    preset: str | None = None,
    backend: str = AUTO,
    device: str = AUTO,
    precision: PrecisionChoice = AUTO,
    build: bool = False,
    batch_size: int = DEFAULT_BATCH_SIZE,
    memory_budget: int | None = None,
    no_cuda_graphs: bool = False,
    trust: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    trust_engines: bool = False,
    device_budget: int | None = None,
    host_budget: int | None = None,
    offload_cpu: bool = False,
    spill_dir: str | os.PathLike[str] | None = None,
    thresholds: Thresholds = PUBLISHED,
    max_conditioning: int = ALL_CONDITIONING,
    allow_nonfinite: bool = False,
    geometry_every: int = EXACT.geometry_every,
    geometry_change: float | None = None,
    propose_every: int = EXACT.propose_every,
    pi3_area: int | None = None,
    mos_i_only: bool = False,
    recipe: str | os.PathLike[str] | None = None,
) -> Model:
    """Load networks, as `gmos-run` does with options of the same names.

    Args:
        bundle: directory that `gmos-export onnx` wrote. Without it and without checkpoints nano runs, the small
            model that comes with the package.
        checkpoints: the published ones, for the PyTorch reference.
        variant: "gmos" or "gmos-s"; by default that of the bundle or the checkpoints, else "gmos".
        preset: sizes of the networks.
        backend: "auto", "torch", "onnxruntime", "tensorrt", "tensorrt-rtx", or one that was registered.
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: "auto" or that of the networks.
        build: build engines that are missing or out of date first.
        batch_size: windows per network call.
        memory_budget: MiB of device memory for all of a run on engines.
        no_cuda_graphs: launch the kernels of engines one by one.
        trust: file of a public key, or several: the bundle must be signed with one of them (`gmos-export sign`).
        trust_engines: run engines whoever built them; they are native code, which can do whatever this process can.
        device_budget: MiB of features kept on the device; by default a quarter of what is free.
        host_budget: MiB of features kept in host memory; by default a quarter of what is free.
        offload_cpu: keep features in host memory, not on the device.
        spill_dir: directory for features beyond both budgets.
        thresholds: of the propagator.
        max_conditioning: conditioning memories of an object that a frame reads at most, 2 or more; -1: all.
        allow_nonfinite: go on where a network gives values that are not finite.
        geometry_every: run the Pi3 decoder on every so manieth frame and interpolate between.
        geometry_change: do not interpolate where the tokens of the neighbours differ by more than this share.
        propose_every: propose on every so manieth frame, and before one that calls for a prompt. GMOS.
        pi3_area: pixels of a frame as Pi3 sees it, at most; by default as many as the networks were made for.
        mos_i_only: leave GMOS's second pass out: no MOS.
        recipe: levers as `gmos-export tune` found them: a name in the bundle, a file, or "exact".

    Raises:
        GmosError: something given cannot be used; the text is the command's, with arguments for its options.
    """
    given = {} if checkpoints is None else {name: getattr(checkpoints, name) for name in CHECKPOINT_FIELDS}
    options = RunOptions.in_mib(
        batch_size=batch_size,
        thresholds=thresholds,
        offload_cpu=offload_cpu,
        device_budget=device_budget,
        host_budget=host_budget,
        spill_dir=None if spill_dir is None else Path(spill_dir),
        max_conditioning=max_conditioning,
        allow_nonfinite=allow_nonfinite,
        levers=Levers(
            geometry_every=geometry_every,
            geometry_change=geometry_change,
            propose_every=propose_every,
            pi3_area=pi3_area,
        ),
        mos_i_only=mos_i_only,
    )
    paths: dict[str, Any] = {
        f"{name}_ckpt": None if path is None else Path(path) for name, path in given.items()
    }
    choice = NetworkChoice(
        variant=variant,
        preset=preset,
        bundle=None if bundle is None else Path(bundle),
        backend=backend,
        device=device,
        precision=precision,
        build=build,
        memory_budget=None if memory_budget is None else memory_budget * MIB,
        cuda_graphs=not no_cuda_graphs,
        trust=tuple(Path(key) for key in ([trust] if isinstance(trust, str | os.PathLike) else trust)),
        trust_engines=trust_engines,
        **paths,
    )
    return Model(choice, options, recipe=None if recipe is None else os.fspath(recipe))


class Model:
    """Loaded networks. Close it, or use it in a `with` statement; it is used by one thread at a time.

    Args:
        choice: which networks, and what runs them.
        options: how to run.
        recipe: as `load` takes it.

    Raises:
        GmosError: the networks cannot be loaded.
    """

    def __init__(
        self, choice: NetworkChoice, options: RunOptions | None = None, *, recipe: str | None = None
    ) -> None:
        source = choice.resolve()
        self._options = with_recipe(options or RunOptions(), recipe, source)
        self._options.require(source.model.variant)
        self._settings = {**source.settings(), **self._options.settings()}
        self._made_from = source.made_from()
        self._delay_frames = 0
        self._backend: Backend | None = source.load()
        self.variant: Variant = source.model.variant
        """"gmos" or "gmos-s"."""
        self.description: str = self._backend.description
        """Backend, device and precision in one line."""

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._backend is None else self.description
        return f"<gmos_deploy.Model {self.variant}, {state}>"

    def close(self) -> None:
        """Release the networks and the device memory; finished results stay readable."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    @property
    def delay_frames(self) -> int:
        """How many frames later an answer comes in the stream that was opened last: twice its stride.

        Raises:
            GmosError: no stream was opened, so that no frame rate is known.
        """
        if not self._delay_frames:
            raise GmosError("delay_frames follows from a stream's frame rate; call stream() first")
        return self._delay_frames

    @tells_arguments
    def segment(
        self,
        source: Source,
        *,
        fps: float | None = None,
        stride: int | None = None,
        name: str | None = None,
        keep_frames: bool = True,
        progress: ProgressCallback | None = None,
    ) -> VideoResult:
        """Segment a whole video.

        Args:
            source: a video file, a directory of frames, or an iterable of frames (H, W, 3) uint8 RGB.
            fps: frames per second; needed for directories and iterables unless `stride` is given.
            stride: frames between neighbours of a window; by default fps / 8, rounded down.
            name: of the results; by default the file's or directory's, "frames" for an iterable.
            keep_frames: keep frames of an iterator, which can be had only once, in a temporary file, so that
                overlays can be saved.
            progress: called as frames are done, in this thread.

        Raises:
            GmosError: the source, the rate or the device cannot be used.
        """
        backend = self._opened()
        sequence = self._sequence(source, fps=fps, stride=stride, name=name, keep=keep_frames)
        options = settle_run(backend, self._options, [sequence])
        listener = None if progress is None else _Callback(progress, f"{sequence.name}: ")
        run = ClipRun(backend, sequence, options, progress=listener)
        frames = [answer.compact() for answer in run]
        own = sequence.settings()
        return VideoResult(
            frames=frames,
            sequence=sequence,
            summary=run.summary,
            variant=self.variant,
            settings={**self._settings, **own},
            made_from=self._made_from | sequence.made_from(own),
        )

    @tells_arguments
    def stream(
        self,
        source: Source,
        *,
        fps: float | None = None,
        stride: int | None = None,
        retire_after: float = RETIRE_AFTER_S,
        drop: Drop | None = None,
        reset_after: float = RESET_AFTER_S,
        timeout: float = TIMEOUT_S,
        reconnect: float = RECONNECT_S,
    ) -> Generator[FrameResult, None, None]:
        """Answers while frames come, each `delay_frames` later; at the end the last ones follow.

        Cameras, addresses and pipes are read in a thread, from now on until the answers end or are closed.

        GMOS answers with MOS-I and with all objects that it tracks; MOS is known only of whole videos. Memory does not
        grow with the stream. An answer holds its frame in `rgb`.

        Args:
            source: as for `segment`; an iterable is read frame by frame as answers are taken. Or what `gmos-run` takes
                as a stream: "0" or "/dev/video0", "rtsp://…" and other addresses, "-", "gst:…".
            fps: frames per second; needed for directories and iterables unless `stride` is given.
            stride: frames between neighbours of a window; by default fps / 8, rounded down.
            retire_after: seconds; see `session`.
            drop: of streams. "oldest": of two frames that wait the older one gives way to a new one, which is the
                default; "none": the source waits, which is the default of pipes.
            reset_after: of streams, seconds; see `session`.
            timeout: of streams, seconds to connect and to wait for a picture.
            reconnect: for how many seconds a stream that was lost is tried again; 0: not at all.

        Raises:
            GmosError: as for `segment`.
        """
        if isinstance(source, str | os.PathLike) and live_source_of(os.fspath(source)) is not None:
            options = ReadingOptions(
                timeout_s=timeout, reset_after_s=reset_after, reconnect_s=reconnect, fps=fps, stride=stride
            )
            return self._stream_live(os.fspath(source), options, drop, retire_after)
        sequence = self._sequence(source, fps=fps, stride=stride, name=None, keep=False)
        live = self._live(
            video_hw=sequence.video_hw,
            stride=sequence.stride,
            fps=sequence.output_fps,
            retire_after_s=retire_after,
            name=sequence.name,
        )
        self._delay_frames = live.delay_frames
        return self._while_open(answers_to(played(sequence), live))

    def _stream_live(
        self, given: str, options: ReadingOptions, drop: Drop | None, retire_after_s: float
    ) -> Generator[FrameResult, None, None]:
        check_rate(options.fps, options.stride)
        self._opened()
        source = resolve_live(given, Asked(fps=options.fps, stride=options.stride))
        with ExitStack() as stack:
            reading = ReadingThread(source, options, drop or ("none" if source.waits else "oldest"))
            start = stack.enter_context(reading).wait_for_start()
            live = self._live(
                video_hw=start.video_hw,
                stride=start.stride,
                fps=start.rate_fps,
                retire_after_s=retire_after_s,
                name=source.name,
            )
            reading.queue.begin()
            self._delay_frames = live.delay_frames
            # From here on it ends with the answers.
            stack.pop_all()
            return self._while_open(answers_from(reading, live, start.limit_s))

    @tells_arguments
    def session(
        self,
        size_hw: tuple[int, int],
        *,
        fps: float,
        stride: int | None = None,
        retire_after: float = RETIRE_AFTER_S,
        reset_after: float = RESET_AFTER_S,
        name: str = "stream",
    ) -> Session:
        """Open a stream that you push frames into: from a camera, a ROS node, a callback of GStreamer.

        Any number of sessions may be open on one model; each answers as it would alone. An answer holds its frame in
        `rgb`.

        Args:
            size_hw: height and width of its frames in pixels.
            fps: frames per second.
            stride: frames between neighbours of a window; by default fps / 8, rounded down.
            retire_after: an object is gone when nothing of it has been seen for so many seconds, and one that has been
                still for so long gives way to a new one when all places are taken; 0: never.
            reset_after: a jump of the frames' times by so many seconds begins a new sequence; 0: none does.
            name: of the stream, in messages.

        Raises:
            GmosError: a value is out of range, or the device has no room.
        """
        check_rate(fps, stride)
        live = self._live(
            video_hw=checked_size(size_hw),
            stride=stride_for_fps(fps) if stride is None else stride,
            fps=fps,
            retire_after_s=retire_after,
            name=name,
        )
        return Session(live, reset_after_s=reset_after, require_open=self._opened)

    @tells_arguments
    def push_all(
        self, frames: Sequence[tuple[Session, NDArray[np.uint8], float | None]]
    ) -> list[list[FrameResult]]:
        """Push a frame into each of several sessions: windows of one Pi3 size go through the networks together.

        It is there for GPUs, which a single window does not keep busy. Sums are taken in another order then, so that
        answers are within the limits of gmos-parity of those of `Session.push`, which are the same bytes whatever other
        sessions do.

        Args:
            frames: (session, frame, time_s) each, as for `Session.push`; no session twice.

        Returns:
            The answers of each session, in the order of `frames`.

        Raises:
            GmosError: as `Session.push`, or the sessions are not of this model.
        """
        self._opened()
        return Session.push_all(frames)

    def _live(
        self, *, video_hw: tuple[int, int], stride: int, fps: float, retire_after_s: float, name: str
    ) -> LiveSession:
        """A stream on this model."""
        backend = self._opened()
        return LiveSession(
            backend,
            video_hw=video_hw,
            stride=stride,
            options=settle_live(backend, self._options, video_hw=video_hw, stride=stride, name=name),
            retire_after_s=retire_after_s,
            fps=fps,
            with_rgb=True,
            name=name,
        )

    def _while_open(self, answers: Generator[FrameResult, None, None]) -> Generator[FrameResult, None, None]:
        """The answers, as long as the model is open."""
        try:
            while True:
                self._opened()
                with telling_arguments():
                    answer = next(answers, None)
                if answer is None:
                    return
                yield answer
        finally:
            answers.close()

    def _opened(self) -> Backend:
        if self._backend is None:
            raise GmosError("this model is closed; load it again, or leave the with statement later")
        return self._backend

    def _sequence(
        self, source: Source, *, fps: float | None, stride: int | None, name: str | None, keep: bool
    ) -> SequenceInput:
        model = self._opened().model
        limits = {"pi3_area_px": model.pi3_area_px, "patch_px": model.patch_px}
        if isinstance(source, str | os.PathLike):
            names = None if name is None else [sequence_name(name, name)]
            return resolve_inputs([source], fps=fps, stride=stride, names=names, **limits)[0]
        check_rate(fps, stride)
        label = "frames" if name is None else sequence_name(name, name)
        return resolve_frames(
            source, name=label, fps=fps, stride=stride, keep=keep, spill_dir=self._options.spill_dir, **limits
        )


class _Callback:
    """A callback as a `runtime.progress.Progress`."""

    def __init__(self, call: ProgressCallback, prefix: str) -> None:
        self._call = call
        self._prefix = prefix

    @contextmanager
    def stage(self, name: str, frames: int | None) -> Iterator[Advance]:
        """See `runtime.progress.Progress`."""
        stage, done = name.removeprefix(self._prefix), 0
        self._call(stage, 0, frames)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._call(stage, done, frames)

        yield advance
