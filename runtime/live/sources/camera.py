"""Cameras of this machine by Video4Linux: `/dev/video0`, or `0` for short."""

from __future__ import annotations

import platform
import stat
from functools import partial
from pathlib import Path

import av
from av.error import FFmpegError

from ....errors import GmosError
from .av_reader import AvReader, reason
from .source import Asked, LiveInput, SourceLostError

DEVICE = "/dev/video"
FORMAT = "v4l2"


class CameraSource:
    """Devices of Video4Linux, by their number or their path."""

    kind = "camera"

    def takes(self, given: str) -> bool:
        """Numbers, unless there is a path of that name, and devices."""
        path = Path(given)
        if path.exists():
            return stat.S_ISCHR(path.stat().st_mode) and given.startswith(DEVICE)
        return given.isdecimal() or given.startswith(DEVICE)

    def resolve(self, given: str, asked: Asked) -> LiveInput:
        """See `LiveSource`."""
        device = f"{DEVICE}{int(given)}" if given.isdecimal() else given
        if platform.system() != "Linux":
            raise GmosError(
                f"{given}: cameras are read by Video4Linux, and this is {platform.system()}; give the address of a "
                "stream, or a pipeline of GStreamer (gst:…)"
            )
        if not Path(device).exists():
            there = sorted(str(path) for path in Path(DEVICE).parent.glob(f"{Path(DEVICE).name}*"))
            raise GmosError(
                f"{given}: there is no camera {device}; expected one of {', '.join(there)}"
                if there
                else f"{given}: there is no camera {device}, and no other one; in a container, give it with --device"
            )
        return LiveInput(
            kind=self.kind,
            name=Path(device).name,
            shown=device,
            open=partial(open_camera, device, fps=asked.fps),
        )


def open_camera(device: str, timeout_s: float, *, fps: float | None) -> AvReader:
    """Open a camera.

    Args:
        device: its path.
        timeout_s: to open it, and for every picture later.
        fps: the rate that is asked of it; None: its own.

    Raises:
        SourceLostError: it does not open.
    """
    # The driver takes the nearest rate that it has.
    options = {} if fps is None else {"framerate": f"{fps:g}"}
    try:
        container = av.open(
            device,
            "r",
            format=FORMAT,
            options=options,
            timeout=(timeout_s, timeout_s),
            container_options={"protocol_whitelist": "none", "format_whitelist": "video4linux2,v4l2"},
        )
    except FFmpegError as error:
        raise SourceLostError(reason(error)) from error
    return AvReader(device, container, timeout_s=timeout_s, ends=False)
