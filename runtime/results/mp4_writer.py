"""An H.264 .mp4 file that browsers play."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ...errors import GmosError
from ..contract import Variant
from ..files.atomic_file import writing
from ..frame_result import FrameResult, ResultName
from ..media import Media, OverlayStyle, Sound
from .collected import instances
from .labelled_overlay import labelled_overlay
from .overlay import overlay
from .sound_track import SoundTrack

CODEC: Final = "libx264"
DEFAULT_CRF = 20
"""Constant rate factor, 0 (lossless) to 51: 20 shows no artefacts at normal size."""
CRF_RANGE = (0, 51)
PRESET = "veryfast"
"""Overlays are looked at, not archived: speed goes before size."""
THREADS = 4
"""Of the encoder: what it writes depends on their number, which by default follows the cores a process may use."""
SQUARE = Fraction(1)
FPS_LIMIT = 100_000
"""Largest denominator of a frame rate: finds 30000/1001 in 29.97003."""
BT601_MATRIX, LIMITED_RANGE = 6, 1
"""H.273 codes of what swscale does by default, stated in the file so that players do not guess."""


class Mp4Writer:
    """Writes RGB frames as yuv420p H.264, index first, so that playing starts before the end is loaded.

    4:2:0 needs even sizes, and its cropping too: odd videos get their last row or column once more, so
    the .mp4 is one pixel larger there. Frames are shown at the times given, uneven ones included. Sound is copied as it
    is coded. Equal frames and sound give equal bytes.
    """

    def __init__(
        self,
        path: Path,
        *,
        video_hw: tuple[int, int],
        fps: float,
        time_base_s: Fraction | None = None,
        pixel_aspect: Fraction = SQUARE,
        crf: int = DEFAULT_CRF,
        sound: Sound | None = None,
    ) -> None:
        """Prepare a file; it is created on entry.

        Args:
            path: where to write; an existing file is replaced.
            video_hw: height and width of the frames to come, in pixels.
            fps: average frames per second.
            time_base_s: unit that frame times are rounded to, in seconds; by default one frame.
            pixel_aspect: width to height of a pixel, for players.
            crf: constant rate factor, 0 to 51; lower is better and larger.
            sound: goes with the frames, where an .mp4 file can hold it.

        Raises:
            GmosError: the PyAV build has no libx264, or `crf` or `fps` is out of range.
        """
        if CODEC not in av.codecs_available:
            raise GmosError(
                f"this PyAV {av.__version__} has no {CODEC}, which .mp4 overlays need; install PyAV's own "
                f"wheel (pip install --force-reinstall av) or leave mp4 out of --save-mode"
            )
        if not CRF_RANGE[0] <= crf <= CRF_RANGE[1]:
            raise GmosError(f"crf {crf}: expected {CRF_RANGE[0]} (lossless) to {CRF_RANGE[1]} (worst)")
        self._path = path
        self._video_hw = video_hw
        self._rate = Fraction(fps).limit_denominator(FPS_LIMIT)
        if self._rate <= 0:
            raise GmosError(f"frame rate {fps} of {path}: expected a positive number of frames per second")
        self._time_base_s = time_base_s or 1 / self._rate
        self._pixel_aspect = pixel_aspect
        self._crf = crf
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._sound = sound
        self._track: SoundTrack | None = None
        self._last_pts = -1
        self._frames = 0

    @property
    def frames_written(self) -> int:
        """Number of frames written so far."""
        return self._frames

    def __enter__(self) -> Mp4Writer:
        height, width = self._video_hw
        with self._encoding():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(
                str(self._path.absolute()), "w", format="mp4", options={"movflags": "+faststart"}
            )
            stream = self._container.add_stream(
                CODEC, rate=self._rate, options={"crf": str(self._crf), "preset": PRESET}
            )
            stream.width, stream.height = width + width % 2, height + height % 2
            stream.pix_fmt = "yuv420p"
            stream.codec_context.sample_aspect_ratio = self._pixel_aspect
            stream.codec_context.time_base = self._time_base_s
            stream.codec_context.colorspace = BT601_MATRIX
            stream.codec_context.color_range = LIMITED_RANGE
            stream.codec_context.thread_type, stream.codec_context.thread_count = "FRAME", THREADS
            self._stream = stream
            self._track = SoundTrack(self._container, self._sound, self._path.name)
        return self

    def write(self, rgb: NDArray[np.uint8], time_s: float) -> None:
        """Append one frame, (H, W, 3) uint8, shown from `time_s` on; times grow.

        Raises:
            GmosError: the file cannot be written.
        """
        if rgb.shape != (*self._video_hw, 3):
            raise ValueError(f"frame of shape {rgb.shape} in a video of (height, width) {self._video_hw}")
        height, width = self._video_hw
        if height % 2 or width % 2:
            rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
        frame.colorspace, frame.color_range = BT601_MATRIX, LIMITED_RANGE
        # Two frames closer than the unit of time still need different time stamps.
        self._last_pts = max(round(time_s / self._time_base_s), self._last_pts + 1)
        frame.pts, frame.time_base = self._last_pts, self._time_base_s
        if self._container is None or self._stream is None or self._track is None:
            raise RuntimeError("the writer is not open: use it in a with statement")
        with self._encoding():
            self._container.mux(self._stream.encode(frame))
            self._track.write(time_s)
        self._frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file. After an error it is only closed, and is not worth keeping."""
        container, stream, track = self._container, self._stream, self._track
        self._container = self._stream = self._track = None
        if container is None or stream is None or track is None:
            return
        if error is not None:
            with suppress(av.FFmpegError):
                container.close()
            return
        with self._encoding():
            try:
                container.mux(stream.encode(None))
                track.write(float("inf"))
            finally:
                container.close()

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        with writing(self._path):
            try:
                yield
            except av.FFmpegError as error:
                # System errors such as a full disk are `OSError`s as well and have their own messages.
                if isinstance(error, OSError):
                    raise
                height, width = self._video_hw
                raise GmosError(
                    f"{self._path}: {CODEC} cannot encode {width}x{height} pixels ({error.strerror}); "
                    f"leave mp4 out of --save-mode"
                ) from error


class _OverlayFrames:
    """The overlay of one result in an .mp4 file. A `formats.FrameWriter`."""

    def __init__(self, mp4: Mp4Writer, result: ResultName, style: OverlayStyle) -> None:
        self._mp4 = mp4
        self._style = style
        self._result: ResultName = result

    @property
    def frames_written(self) -> int:
        """See `formats.FrameWriter`."""
        return self._mp4.frames_written

    def write(self, answer: FrameResult) -> None:
        """See `formats.FrameWriter`."""
        if answer.rgb is None:
            raise ValueError("an overlay needs the frame: the run was not asked for frames")
        drawn = (
            overlay(answer.rgb, answer.values(self._result))
            if self._style == "published"
            else labelled_overlay(answer.rgb, instances(answer, self._result), self._result)
        )
        self._mp4.write(drawn, answer.time_s)


class OverlayFormat:
    """H.264 overlays. A `formats.ResultFormat`."""

    mode = "mp4"
    folders: Mapping[Variant, Mapping[ResultName, str]] = {
        "gmos": {"mos-i": "mos-i_mp4", "mos": "mos_mp4"},
        "gmos-s": {"foreground": "mp4"},
    }
    ending = ".mp4"
    needs_rgb = True

    @contextmanager
    def writer(self, path: Path, result: ResultName, media: Media) -> Iterator[_OverlayFrames]:
        """See `formats.ResultFormat`."""
        with ExitStack() as stack:
            writer = Mp4Writer(
                path,
                video_hw=media.video_hw,
                fps=media.fps,
                time_base_s=media.time_base_s,
                pixel_aspect=media.pixel_aspect,
                sound=media.sound and stack.enter_context(media.sound()),
            )
            yield _OverlayFrames(stack.enter_context(writer), result, media.overlay)

    def is_whole(self, path: Path, frames: int) -> bool:  # noqa: ARG002 - an .mp4 is filed only when it is whole
        """See `formats.ResultFormat`."""
        return path.is_file()
