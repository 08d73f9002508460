"""Pictures of a stream that PyAV reads: decoded as they come, with as little delay as the codec allows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from typing import TYPE_CHECKING

import av
from av.codec.context import Flags
from av.error import FFmpegError
from av.stream import Disposition

from ....errors import GmosError
from ...video.rgb import display_matrix, oriented, rgb_of
from .source import Picture, SourceLostError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

MOST_FPS = 1000.0
"""Streams without a rate are given that of their time base, such as 90000."""

NO_TIMESTAMPS = 0x80
"""FFmpeg's AVFMT_NOTIMESTAMPS: pictures alone, such as Motion JPEG or raw H.264, for which it makes up 25 a second."""


def reason(error: FFmpegError) -> str:
    """Why, without the address that FFmpeg repeats."""
    # Interrupted by PyAV when the time is over.
    if isinstance(error, av.error.ExitError):
        return "nothing came in time"
    return error.strerror or type(error).__name__


class AvReader:
    """One connection to a source.

    Args:
        shown: for messages.
        opened: an open container, closed at the end.
        timeout_s: after so many seconds without a whole picture it counts as lost.
        ends: what to do where no more comes: it is an end, or else the connection was lost.
        lost: why it was lost all the same; None: it was not.
        clock: monotonic, in seconds.

    Raises:
        GmosError: it has no video.
    """

    def __init__(
        self,
        shown: str,
        opened: InputContainer,
        *,
        timeout_s: float,
        ends: bool,
        lost: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shown = shown
        self._timeout_s = timeout_s
        self._ends = ends
        self._lost = lost
        self._clock = clock
        with ExitStack() as stack:
            stack.callback(opened.close)
            self._container = opened
            self._stream = self._video()
            codec = self._stream.codec_context
            # Slices: with a frame a thread, a picture would wait for those after it.
            codec.thread_type = "SLICE"
            codec.flags |= Flags.low_delay
            self._timed = not opened.format.flags & NO_TIMESTAMPS
            self._stack = stack.pop_all()
        self._damaged = 0
        self._given = False

    def __enter__(self) -> AvReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self._damaged > 1:
            logger.warning("%s: %d damaged pictures were left out", self._shown, self._damaged)

    @property
    def rate_fps(self) -> float | None:
        """See `PictureReader`."""
        rate = float(self._stream.average_rate or 0)
        return rate if self._timed and 0 < rate <= MOST_FPS else None

    @property
    def pixel_aspect(self) -> Fraction:
        """See `PictureReader`."""
        return Fraction(self._stream.sample_aspect_ratio or 1)

    def __iter__(self) -> Iterator[Picture]:
        """See `PictureReader`; what is damaged is left out, as after every loss there is some."""
        last_s = self._clock()
        try:
            for packet in self._container.demux(self._stream):
                arrival_s = self._clock()
                for frame in self._decoded(packet.decode):
                    self._given = True
                    yield self._picture(frame, arrival_s)
                    last_s = self._clock()
                if self._clock() - last_s > self._timeout_s:
                    raise SourceLostError(f"no picture can be decoded for {self._timeout_s:g} s")
        except FFmpegError as error:
            raise SourceLostError(reason(error)) from error
        why = self._lost() or (None if self._ends else "it was closed at the other end")
        if why is not None:
            raise SourceLostError(why)

    def _decoded(self, decode: Callable[[], list[VideoFrame]]) -> list[VideoFrame]:
        try:
            decoded = decode()
        except av.error.InvalidDataError:
            self._leave_out(1)
            return []
        whole = [frame for frame in decoded if not frame.is_corrupt]
        self._leave_out(len(decoded) - len(whole))
        return whole

    def _leave_out(self, count: int) -> None:
        if not count or not self._given:
            # Who comes in the middle misses what the first ones need.
            return
        if not self._damaged:
            logger.warning("%s: a damaged picture was left out", self._shown)
        self._damaged += count

    def _picture(self, frame: VideoFrame, arrival_s: float) -> Picture:
        try:
            rgb = rgb_of(frame)
        except (FFmpegError, ValueError) as error:
            raise GmosError(
                f"{self._shown} has pixels of format {frame.format.name}, which cannot be converted to RGB; have the "
                "camera send another format"
            ) from error
        pts, unit_s = frame.pts, frame.time_base
        return Picture(
            rgb=oriented(rgb, display_matrix(frame, self._shown)),
            time_s=float(pts * unit_s) if self._timed and pts is not None and unit_s is not None else None,
            arrival_s=arrival_s,
        )

    def _video(self) -> VideoStream:
        streams = [
            one for one in self._container.streams.video if not one.disposition & Disposition.attached_pic
        ]
        if not streams:
            kinds = sorted({str(stream.type) for stream in self._container.streams})
            raise GmosError(
                f"{self._shown} has no video ({' and '.join(kinds) or 'nothing'}); expected a video stream"
            )
        if streams[0].codec_context is None:
            raise GmosError(
                f"{self._shown} has video for which this PyAV {av.__version__} has no decoder; have it sent as H.264"
            )
        return streams[0]
