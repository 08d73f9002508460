"""`gmos-run` on a stream: check everything, see what comes, load the networks, answer until it ends."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import GmosError
from .evaluation.profile.machine import peak_mib
from .evaluation.profile.roofline import on_gpu
from .evaluation.progress_bar import run_progress
from .networks import NetworkChoice
from .runtime.backend import Backend
from .runtime.console_progress import LineProgress
from .runtime.contract import Variant
from .runtime.files.made_from import NOTHING, MadeFrom
from .runtime.live.incoming import LiveSink
from .runtime.live.preview.guard import preview_address
from .runtime.live.reading import ReadingOptions, StreamStart
from .runtime.live.results import DEFAULT_SEGMENT_S, check_live_modes, open_live_sinks
from .runtime.live.session import RETIRE_AFTER_S, LiveSession
from .runtime.live.sources.registry import resolve_live
from .runtime.live.sources.source import Asked, LiveInput
from .runtime.live.threads.frame_queue import Drop
from .runtime.live.threads.live_run import LiveRun
from .runtime.live.threads.live_summary import LiveSummary
from .runtime.live.threads.reading_thread import ReadingThread
from .runtime.media import Media, OverlayStyle
from .runtime.pi3_frame import pi3_size_wh
from .runtime.pipeline.options import RunOptions
from .runtime.pipeline.thresholds import PUBLISHED
from .runtime.results.formats import OVERLAYS, drawing_settings, needs_rgb, parse_save_mode
from .runtime.tensorrt.memory import settle_live
from .runtime.video.inputs import check_rate

if TYPE_CHECKING:
    from .runtime.live.preview.server import Preview

logger = logging.getLogger(__name__)

TIME_BASE_S = Fraction(1, 90_000)
"""Of overlays; the usual one of streams."""

NO_MOS = "MOS goes backwards through the whole video, which a stream never has; it has MOS-I and all tracked objects"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveChoice:
    """The options of a stream, as `gmos-run` has them; None is the default.

    Raises:
        GmosError: two of them contradict each other.
    """

    live: bool = False
    drop: Drop | None = None
    reset_after: float | None = None
    retire_after: float | None = None
    timeout: float | None = None
    reconnect: float | None = None
    segment: float | None = None
    keep_segments: int | None = None
    tracks: str | None = None
    preview: str | None = None
    preview_token: str | None = None

    def reading(self, fps: float | None, stride: int | None) -> ReadingOptions:
        """How the source is read.

        Raises:
            GmosError: a value is out of range.
        """
        check_rate(fps, stride)
        if self.retire_after is not None and not 0 <= self.retire_after < float("inf"):
            raise GmosError(f"--retire_after {self.retire_after:g}: expected seconds from 0 up; 0: never")
        given = {
            "timeout_s": self.timeout,
            "reset_after_s": self.reset_after,
            "reconnect_s": self.reconnect,
        }
        return ReadingOptions(
            fps=fps, stride=stride, **{name: value for name, value in given.items() if value is not None}
        )


@dataclass(slots=True, kw_only=True)
class LiveReport:
    """The closing summary of a run on a stream."""

    variant: Variant
    preset: str
    stream: LiveSummary
    backend: str | None = None
    load_s: float = 0.0
    made_from: MadeFrom = field(default=NOTHING)

    def render(self, *, as_json: bool) -> str:
        """The summary as text for people, or as JSON."""
        if as_json:
            return json.dumps(asdict(self), default=str, indent=2, ensure_ascii=False)
        return "\n".join([f"{self.backend}, loaded in {self.load_s:.1f} s", *self.stream.lines()])


def run_live(
    *,
    networks: NetworkChoice,
    inputs: Sequence[Path | str],
    choice: LiveChoice,
    report: Callable[[LiveReport], None],
    save_dir: Path,
    save_mode: str | None = None,
    fps: float | None = None,
    stride: int | None = None,
    options: RunOptions | None = None,
    overlay: OverlayStyle = "labelled",
    overlays: bool = False,
    quiet: bool = False,
) -> None:
    """Answer a stream until it ends, or this thread is interrupted.

    Args:
        networks: which, and what runs them.
        inputs: one stream, or one file to be played as one.
        choice: the options of streams.
        report: gets the closing summary, also of a run that fails or is interrupted after its first frame.
        save_dir: where results go.
        save_mode: what to write; by default tracks, or nothing where answers go to standard output or to a page.
        fps: frames per second, of which the stride follows; by default the source's own.
        stride: frames between neighbours of a window.
        options: how to run the pipeline.
        overlay: how overlays are drawn.
        overlays: write them too where no `save_mode` says what to write.
        quiet: no progress.

    Raises:
        GmosError: something given cannot be used, or the source, the device or the disk fails.
    """
    options = options or RunOptions()
    given = _one_input(inputs)
    _refuse_mos(save_mode, options)
    reading_options = choice.reading(fps, stride)
    networks_source = networks.resolve()
    model = networks_source.model
    modes = _modes(save_mode, model.variant, choice, overlays=overlays)
    asked = Asked(live=choice.live, dropping=choice.drop == "oldest", fps=fps, stride=stride)
    source = resolve_live(given, asked)
    for note in source.notes:
        logger.info("%s: %s", source.name, note)
    drop: Drop = choice.drop or ("none" if source.waits else "oldest")
    with ExitStack() as stack:
        preview = _preview(choice, source.name, overlay)
        if preview is not None:
            stack.enter_context(preview)
            logger.info("preview: %s", preview.url)
        reading = stack.enter_context(ReadingThread(source, reading_options, drop))
        start = reading.wait_for_start()
        pi3_size_wh(start.video_hw[1], start.video_hw[0], model.pi3_area_px, model.patch_px)
        logger.info("%s: %s", source.shown, start.line())
        settings = {**networks_source.settings(), **options.settings(), **drawing_settings(modes, overlay)}
        made_from = networks_source.made_from()
        sinks = open_live_sinks(
            save_dir if modes else None,
            modes,
            _media(source, start, overlay),
            variant=model.variant,
            segment_s=DEFAULT_SEGMENT_S if choice.segment is None else choice.segment,
            keep_segments=choice.keep_segments,
            tracks_to_stdout=choice.tracks is not None,
            settings=settings,
            made_from=made_from,
        )
        began_s = time.monotonic()
        backend = stack.enter_context(closing(networks_source.load()))
        load_s = time.monotonic() - began_s
        logger.info("%s; loaded in %.1f s", backend.description, load_s)
        run = LiveRun(
            reading,
            _session(
                backend, source, start, choice, options, with_rgb=needs_rgb(modes) or preview is not None
            ),
            sinks,
            listeners=[] if preview is None else [preview],
            free_bytes=backend.arrays.free_bytes if on_gpu(backend) else None,
        )
        try:
            with (
                LineProgress() if quiet else run_progress() as progress,
                progress.stage(source.name, None) as advance,
            ):
                run.run(advance)
        finally:
            run.summary.peak_mib = round(peak_mib(), 1)
            run.summary.outputs = _outputs(sinks)
            report(
                LiveReport(
                    variant=model.variant,
                    preset=model.preset,
                    stream=run.summary,
                    backend=backend.description,
                    load_s=load_s,
                    made_from=made_from,
                )
            )


def _one_input(inputs: Sequence[Path | str]) -> str:
    if len(inputs) != 1:
        given = "no input was given" if not inputs else f"{len(inputs)} inputs were given"
        raise GmosError(f"{given}; expected one stream, or one file with --live; run others beside it")
    return str(inputs[0])


def _refuse_mos(save_mode: str | None, options: RunOptions) -> None:
    if save_mode is not None and "mos" in save_mode.lower().split("+"):
        raise GmosError(f"--save_mode {save_mode}: {NO_MOS}; give a file")
    if options.max_conditioning is not None:
        raise GmosError(f"--max_conditioning {options.max_conditioning} bounds memories of MOS; {NO_MOS}")
    for name in ("stage2_share", "stage2_iou", "moving_frames"):
        if getattr(options.thresholds, name) != getattr(PUBLISHED, name):
            raise GmosError(f"--thresholds {name}: is one of MOS; {NO_MOS}")


def _modes(save_mode: str | None, variant: Variant, choice: LiveChoice, *, overlays: bool) -> frozenset[str]:
    """What is written: as asked for; else tracks, unless answers are seen elsewhere."""
    if save_mode is None:
        if choice.tracks is not None or choice.preview is not None:
            for name in ("segment", "keep_segments"):
                if (value := getattr(choice, name)) is not None:
                    raise GmosError(f"--{name} {value:g}: no files are written; give --save_mode with it")
            return frozenset()
        return frozenset(("tracks", OVERLAYS.mode) if overlays else ("tracks",))
    modes = parse_save_mode(save_mode, variant)
    check_live_modes(modes, variant)
    return modes


def _media(source: LiveInput, start: StreamStart, overlay: OverlayStyle) -> Media:
    return Media(
        video_hw=start.video_hw,
        fps=start.rate_fps,
        pixel_aspect=start.pixel_aspect,
        time_base_s=TIME_BASE_S,
        stride=start.stride,
        source=source.shown,
        sequence=source.name,
        overlay=overlay,
    )


def _session(
    backend: Backend,
    source: LiveInput,
    start: StreamStart,
    choice: LiveChoice,
    options: RunOptions,
    *,
    with_rgb: bool,
) -> LiveSession:
    video_hw, stride = start.video_hw, start.stride
    return LiveSession(
        backend,
        video_hw=video_hw,
        stride=stride,
        fps=start.rate_fps,
        options=settle_live(backend, options, video_hw=video_hw, stride=stride, name=source.name),
        retire_after_s=RETIRE_AFTER_S if choice.retire_after is None else choice.retire_after,
        with_rgb=with_rgb,
        name=source.name,
    )


def _preview(choice: LiveChoice, name: str, overlay: OverlayStyle) -> Preview | None:
    if choice.preview is None:
        return None
    from .runtime.live.preview.server import Preview  # noqa: PLC0415 - an extra

    host, port = preview_address(choice.preview)
    return Preview(host, port, choice.preview_token or None, name=name, overlay=overlay)


def _outputs(sinks: Sequence[LiveSink]) -> list[str]:
    folders = [getattr(sink, "folder", None) for sink in sinks]
    return [str(folder) for folder in folders if folder is not None]
