"""A container on standard input, as `ffmpeg … -f matroska - | gmos-run -` gives it."""

from __future__ import annotations

import os
import select
import sys
from functools import partial

import av
from av.error import FFmpegError

from ....errors import GmosError
from ...video.containers import NO_PROTOCOL, allowed_formats
from .av_reader import AvReader, reason
from .source import Asked, LiveInput, SourceLostError

GIVEN = "-"
SHOWN = "standard input"
READ_BYTES = 1 << 16


class PipeSource:
    """Standard input."""

    kind = "pipe"

    def takes(self, given: str) -> bool:
        """The usual name of it."""
        return given == GIVEN

    def resolve(self, given: str, asked: Asked) -> LiveInput:  # noqa: ARG002 - the protocol's
        """See `LiveSource`."""
        if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
            raise GmosError(
                f"{given} is standard input, and that is a terminal; expected a video from a pipe, as in ffmpeg … -f "
                "matroska - | gmos-run -"
            )
        descriptor = sys.stdin.fileno()
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - there alone

            # Else the ends of lines are changed.
            msvcrt.setmode(descriptor, os.O_BINARY)
        return LiveInput(
            kind=self.kind,
            name="stdin",
            shown=SHOWN,
            open=partial(open_pipe, descriptor),
            waits=True,
            returns=False,
        )


class _Input:
    """Reads a file descriptor as it is filled, so that no picture waits for the next ones.

    `lost` says why, where it ended because nothing came in time: PyAV prints some of what is raised here and goes on.
    """

    name = "pipe"
    lost: str | None = None

    def __init__(self, descriptor: int, timeout_s: float) -> None:
        self._descriptor = descriptor
        self._timeout_s = timeout_s

    def read(self, size: int) -> bytes:
        """At most so many bytes; none at the end, or where nothing came in time."""
        # Windows can wait for sockets alone.
        if sys.platform != "win32" and not select.select([self._descriptor], [], [], self._timeout_s)[0]:
            self.lost = f"nothing came for {self._timeout_s:g} s"
        if self.lost is not None:
            return b""
        return os.read(self._descriptor, size)


def open_pipe(descriptor: int, timeout_s: float) -> AvReader:
    """Read a container from a file descriptor, which stays open.

    Raises:
        SourceLostError: nothing came in time.
        GmosError: what came is no video.
    """
    given = _Input(descriptor, timeout_s)
    try:
        container = av.open(
            given,
            "r",
            metadata_errors="replace",
            buffer_size=READ_BYTES,
            container_options={"format_whitelist": allowed_formats(), "protocol_whitelist": NO_PROTOCOL},
        )
    except FFmpegError as error:
        if given.lost is not None:
            raise SourceLostError(given.lost) from error
        raise GmosError(
            f"{SHOWN} is no video that can be read as it comes ({reason(error)}); expected Matroska, MPEG-TS, NUT or "
            "another container that needs no index, as ffmpeg -f matroska writes"
        ) from error
    if given.lost is not None:
        container.close()
        raise SourceLostError(given.lost)
    return AvReader(SHOWN, container, timeout_s=timeout_s, ends=True, lost=lambda: given.lost)
