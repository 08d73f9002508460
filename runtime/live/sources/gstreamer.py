"""Pipelines of GStreamer through OpenCV, `gst:PIPELINE`: the CSI cameras of a Jetson, and whatever GStreamer reads."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import GmosError
from .source import Asked, LiveInput, Picture, SourceLostError

PREFIX = "gst:"

UNNAMED = re.compile(r"[^A-Za-z0-9_]+")
"""What no name of an element has."""

LEAVE_S = 1.0
"""Seconds that a read may take to end; after that its thread is left to end by itself."""

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
        SourceLostError: it does not start in time.
    """
    return GStreamerReader(require_gstreamer(PREFIX), pipeline, timeout_s=timeout_s)


class GStreamerReader:
    """A pipeline that runs.

    OpenCV waits for a picture as long as it takes, before 4.9 also where a time-out is asked for. So it is asked in a
    thread of its own, which is left alone where it hangs.

    Args:
        cv2: OpenCV, with GStreamer.
        pipeline: with a sink.
        timeout_s: seconds to start, and to wait for a picture.
        clock: monotonic, in seconds.

    Raises:
        SourceLostError: it does not start.
    """

    pixel_aspect = Fraction(1)

    def __init__(
        self,
        cv2: Any,  # noqa: ANN401 - OpenCV's module
        pipeline: str,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cv2 = cv2
        self._pipeline = pipeline
        self._timeout_s = timeout_s
        self._clock = clock
        self._asked: SimpleQueue[bool] = SimpleQueue()
        """True for the next picture, False for the end."""
        self._came: SimpleQueue[_Came] = SimpleQueue()
        self._thread = Thread(target=self._pull, name="GStreamer", daemon=True)
        self._thread.start()
        opened = self._wait()
        if not opened.whole:
            raise SourceLostError("GStreamer does not start the pipeline; try it with gst-launch-1.0")
        self.rate_fps: float | None = opened.number if opened.number > 0 else None

    def __enter__(self) -> GStreamerReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.put(False)
        self._thread.join(LEAVE_S)

    def __iter__(self) -> Iterator[Picture]:
        """See `PictureReader`. That no picture came in time is a loss; that none comes at once is the end."""
        last_ms = -1.0
        while True:
            self._asked.put(True)
            came = self._wait()
            if not came.whole:
                return
            # Pipelines without times have 0 or -1 all the time.
            time_s = came.number / 1000 if came.number > max(last_ms, 0.0) else None
            last_ms = max(last_ms, came.number)
            yield Picture(rgb=_rgb(came.bgr), time_s=time_s, arrival_s=came.arrival_s)

    def _wait(self) -> _Came:
        try:
            return self._came.get(timeout=self._timeout_s)
        except Empty:
            # It ends when it wakes up, if ever.
            self._asked.put(False)
            raise SourceLostError(f"nothing came for {self._timeout_s:g} s") from None

    def _pull(self) -> None:
        """The thread that alone uses OpenCV's capture."""
        cv2 = self._cv2
        capture = cv2.VideoCapture(self._pipeline, cv2.CAP_GSTREAMER)
        try:
            opened = bool(capture.isOpened())
            rate_fps = float(capture.get(cv2.CAP_PROP_FPS)) if opened else 0.0
            self._came.put(_Came(opened, rate_fps, self._clock()))
            while opened and self._asked.get():
                whole, bgr = capture.read()
                arrival_s = self._clock()
                time_ms = float(capture.get(cv2.CAP_PROP_POS_MSEC)) if whole else 0.0
                self._came.put(_Came(bool(whole), time_ms, arrival_s, bgr))
        finally:
            capture.release()


@dataclass(frozen=True, slots=True)
class _Came:
    """What OpenCV gave: whether there is something, the rate or the time in milliseconds, and the picture."""

    whole: bool
    number: float
    arrival_s: float
    bgr: Any = None


def _rgb(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """OpenCV's order of colours turned round; grey is one."""
    if bgr.ndim == 2 or bgr.shape[2] == 1:
        return np.repeat(bgr.reshape(*bgr.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(bgr[..., 2::-1])
