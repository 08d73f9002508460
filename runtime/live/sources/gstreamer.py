"""Pipelines of GStreamer through OpenCV, `gst:PIPELINE`: the CSI cameras of a Jetson, and whatever GStreamer reads."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import GmosError
from .source import Asked, LiveInput, Picture, SourceLostError

PREFIX = "gst:"

UNNAMED = re.compile(r"[^A-Za-z0-9_]+")
"""What no name of an element has."""

SINK = "appsink"
DEFAULT_SINK = "videoconvert ! video/x-raw, format=BGR ! appsink max-buffers=2 drop=true"
"""What a pipeline ends with that names no sink of its own: what nobody has taken yet is dropped there."""


class GStreamerSource:
    """Pipelines as `gst-launch-1.0` takes them."""

    kind = "GStreamer pipeline"

    def takes(self, given: str) -> bool:
        """What begins with gst:."""
        return given.startswith(PREFIX)

    def resolve(self, given: str, asked: Asked) -> LiveInput:  # noqa: ARG002 - the protocol's
        """See `LiveSource`."""
        pipeline = given.removeprefix(PREFIX).strip()
        if not pipeline:
            raise GmosError(f"{given}: expected a pipeline after gst:, as in gst:videotestsrc")
        # Its first element names it: what else is in it may be an address with a password.
        element = UNNAMED.sub("-", pipeline.split(maxsplit=1)[0])
        shown = f"{PREFIX}{element} …"
        require_gstreamer(shown)
        if SINK not in pipeline:
            pipeline = f"{pipeline} ! {DEFAULT_SINK}"
        return LiveInput(
            kind=self.kind, name=f"gst-{element}", shown=shown, open=partial(open_pipeline, pipeline)
        )


def require_gstreamer(shown: str) -> Any:  # noqa: ANN401 - OpenCV's module
    """OpenCV, if it has GStreamer.

    Raises:
        GmosError: there is no OpenCV, or it was built without.
    """
    try:
        import cv2  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise GmosError(
            f"{shown}: pipelines of GStreamer need OpenCV ({error}); on a Jetson use that of "
            "JetPack (apt install python3-opencv, and a venv with --system-site-packages)"
        ) from error
    line = next((line for line in cv2.getBuildInformation().splitlines() if "GStreamer:" in line), "")
    if "YES" not in line:
        raise GmosError(
            f"{shown}: this OpenCV {cv2.__version__} was built without GStreamer, as those of "
            "PyPI are; use that of the system (apt install python3-opencv, and a venv with --system-site-packages)"
        )
    return cv2


def open_pipeline(pipeline: str, timeout_s: float) -> GStreamerReader:
    """Start a pipeline.

    Raises:
        SourceLostError: it does not start.
    """
    cv2 = require_gstreamer(PREFIX)
    wait_ms = int(timeout_s * 1000)
    waits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait_ms]
    capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER, waits)
    if not capture.isOpened():
        capture.release()
        raise SourceLostError("GStreamer does not start the pipeline; try it with gst-launch-1.0")
    return GStreamerReader(
        capture, rate_fps=capture.get(cv2.CAP_PROP_FPS), position=cv2.CAP_PROP_POS_MSEC, timeout_s=timeout_s
    )


class GStreamerReader:
    """A pipeline that runs.

    Args:
        capture: OpenCV's, opened; released at the end.
        rate_fps: frames per second that it states, 0 for none.
        position: OpenCV's property of the time of the last picture, in milliseconds.
        timeout_s: seconds after which it gives up a picture by itself.
        clock: monotonic, in seconds.
    """

    pixel_aspect = Fraction(1)

    def __init__(
        self,
        capture: Any,  # noqa: ANN401 - OpenCV's
        *,
        rate_fps: float,
        position: int,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capture = capture
        self._position = position
        self._timeout_s = timeout_s
        self._clock = clock
        self.rate_fps = rate_fps if rate_fps > 0 else None

    def __enter__(self) -> GStreamerReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Picture]:
        """See `PictureReader`. That no picture came in time is a loss; that none comes at once is the end."""
        last_ms = -1.0
        while True:
            asked_s = self._clock()
            whole, bgr = self._capture.read()
            arrival_s = self._clock()
            if not whole:
                if arrival_s - asked_s >= self._timeout_s:
                    raise SourceLostError(f"nothing came for {self._timeout_s:g} s")
                return
            now_ms = float(self._capture.get(self._position))
            # Pipelines without times have 0 or -1 all the time.
            time_s = now_ms / 1000 if now_ms > last_ms and now_ms >= 0 else None
            last_ms = max(last_ms, now_ms)
            yield Picture(rgb=_rgb(bgr), time_s=time_s, arrival_s=arrival_s)


def _rgb(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """OpenCV's order of colours turned round; grey is one."""
    if bgr.ndim == 2 or bgr.shape[2] == 1:
        return np.repeat(bgr.reshape(*bgr.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(bgr[..., 2::-1])
