"""The front door: networks loaded once, videos in, frames of masks and objects out."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from .arguments import telling_arguments, tells_arguments
from .errors import GmosError
from .networks import AUTO, NetworkChoice, PrecisionChoice
from .recipes import with_recipe
from .runtime.contract import Variant
from .runtime.files.made_from import MadeFrom
from .runtime.frame_result import FrameResult
from .runtime.levers import EXACT, Levers
from .runtime.pipeline.clip import ClipRun, ClipSummary, with_frames
from .runtime.pipeline.options import ALL_CONDITIONING, DEFAULT_BATCH_SIZE, RunOptions
from .runtime.pipeline.thresholds import PUBLISHED, Thresholds
from .runtime.progress import Advance
from .runtime.tensorrt.memory import settle_run
from .runtime.video.inputs import check_rate, resolve_frames, resolve_inputs, sequence_name
from .runtime.video.sequence import SequenceInput

if TYPE_CHECKING:
    from .runtime.backend import Backend
    from .runtime.media import OverlayStyle
    from .runtime.results.completion import Existing

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
            geometry_every=geometry_every, geometry_change=geometry_change, propose_every=propose_every
        ),
        mos_i_only=mos_i_only,
    )
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
        **{f"{name}_ckpt": None if path is None else Path(path) for name, path in given.items()},
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
        self, source: Source, *, fps: float | None = None, stride: int | None = None
    ) -> Generator[FrameResult, None, None]:
        """Answers while frames come, each `delay_frames` later; at the end the last ones follow. GMOS-S.

        Memory does not grow with the stream. An answer holds its frame in `rgb`.

        Args:
            source: as for `segment`; an iterable is read frame by frame as answers are taken.
            fps: frames per second; needed for directories and iterables unless `stride` is given.
            stride: frames between neighbours of a window; by default fps / 8, rounded down.

        Raises:
            GmosError: the model is GMOS, which tracks only whole videos, or as for `segment`.
        """
        backend = self._opened()
        if self.variant != "gmos-s":
            raise GmosError(
                "stream() needs GMOS-S: GMOS tracks objects through whole videos; load the variant gmos-s, or call "
                "segment()"
            )
        sequence = self._sequence(source, fps=fps, stride=stride, name=None, keep=False)
        options = settle_run(backend, self._options, [sequence])
        run = ClipRun(backend, sequence, options, with_rgb=True, live=True)
        self._delay_frames = run.delay_frames
        return self._while_open(iter(run))

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


class VideoResult(Sequence[FrameResult]):
    """The answers on all frames of one video, in order; label maps stay compact until they are asked for.

    Attributes:
        name: of its results.
        fps: frames per second of overlays.
        stride: frames between neighbours of a window.
        video_hw: height and width in pixels.
        variant: "gmos" or "gmos-s".
        summary: numbers of frames and objects, seconds by stage, remarks.
    """

    def __init__(
        self,
        *,
        frames: Sequence[FrameResult],
        sequence: SequenceInput,
        summary: ClipSummary,
        variant: Variant,
        settings: dict[str, Any],
        made_from: MadeFrom,
    ) -> None:
        self.name = sequence.name
        self.fps = sequence.output_fps
        self.stride = sequence.stride
        self.video_hw = sequence.video_hw
        self.variant: Variant = variant
        self.summary = summary
        self._frames = frames
        self._sequence = sequence
        self._settings = settings
        self._made_from = made_from

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> FrameResult: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[FrameResult]: ...

    def __getitem__(self, index: int | slice) -> FrameResult | Sequence[FrameResult]:
        return self._frames[index]

    def __repr__(self) -> str:
        height, width = self.video_hw
        return (
            f"<gmos_deploy.VideoResult {self.name}: {len(self)} frames of {width}x{height}, {self.variant}>"
        )

    @tells_arguments
    def save(
        self,
        save_dir: str | os.PathLike[str],
        save_mode: str | None = None,
        *,
        existing: Existing = "error",
        overlay: OverlayStyle = "labelled",
    ) -> list[Path]:
        """Write the files that `gmos-run` writes; overlays read the video once more.

        Args:
            save_dir: output place, made if it is not there.
            save_mode: "mask", "mp4", "prob", "tracks", "coco", "ytvis", "yolo", "npz", or several joined by +; by
                default "mask", or "prob" of GMOS-S.
            existing: what to do about results that are there: "error", "resume" (keep finished ones of the same
                settings) or "overwrite".
            overlay: how overlays are drawn: "labelled", or "published".

        Returns:
            Paths of the results.

        Raises:
            GmosError: the place cannot be used, or the video has changed since.
        """
        # Imported here: encoders are needed only by those who save.
        from .runtime.results.completion import ResultSet, should_skip  # noqa: PLC0415
        from .runtime.results.formats import drawing_settings, needs_rgb, parse_save_mode  # noqa: PLC0415
        from .runtime.results.outputs import check_save_dir, file_results  # noqa: PLC0415

        modes = parse_save_mode(save_mode, self.variant)
        results = ResultSet(
            save_dir=Path(save_dir),
            sequence=self.name,
            variant=self.variant,
            modes=modes,
            settings=self._settings | drawing_settings(modes, overlay),
            not_finite=self.summary.not_finite,
            made_from=self._made_from,
        )
        if should_skip(results, existing):
            return results.paths()
        check_save_dir(results.save_dir)
        sequence = self._sequence
        answers = (
            with_frames(self._frames, len(self), sequence)
            if needs_rgb(results.modes)
            else (answer for answer in self._frames)
        )
        return file_results(answers, results, replace(sequence.media, overlay=overlay), existing=existing)


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
