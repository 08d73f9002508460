"""Pipelines through OpenCV: what is missing is said, and pictures come as RGB with their times."""

from __future__ import annotations

import sys
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.live.sources.registry import resolve_live
from gmos_deploy.runtime.live.sources.source import Asked, SourceLostError


class Capture:
    """OpenCV's VideoCapture: three pictures, and then whatever the test says."""

    def __init__(self, pipeline: str, backend: int) -> None:
        self.pipeline, self.backend = pipeline, backend
        self.opens = "broken" not in pipeline
        self.hangs = Event()
        self.left = 3
        self.released = Event()

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's
        return self.opens

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        if self.left < 0:
            assert "hangs" not in self.pipeline or self.hangs.wait(20)
            return False, None
        bgr = np.zeros((2, 3, 3), np.uint8)
        bgr[..., 2] = 200
        return True, bgr[..., :1] if "grey" in self.pipeline else bgr

    def get(self, what: int) -> float:
        if what == 5:
            return 0.0 if "norate" in self.pipeline else 30.0
        return -1.0 if "notime" in self.pipeline else 1000.0 * (3 - self.left) / 30

    def release(self) -> None:
        self.released.set()


class OpenCv(SimpleNamespace):
    """What is used of the module."""

    def __init__(self, gstreamer: str = "YES (1.20.3)") -> None:
        super().__init__(
            __version__="4.8.0",
            CAP_GSTREAMER=1800,
            CAP_PROP_FPS=5,
            CAP_PROP_POS_MSEC=0,
            getBuildInformation=lambda: f"Video I/O:\n    FFMPEG:    YES\n    GStreamer:    {gstreamer}\n",
            VideoCapture=self._capture,
        )
        self.captures: list[Capture] = []

    def _capture(self, *given: Any) -> Capture:
        self.captures.append(Capture(*given))
        return self.captures[-1]


@pytest.fixture
def cv2(monkeypatch: pytest.MonkeyPatch) -> OpenCv:
    module = OpenCv()
    monkeypatch.setitem(sys.modules, "cv2", module)
    return module


def test_pictures(cv2: OpenCv) -> None:
    """RGB, with the pipeline's times and rate; a sink is added where there is none."""
    found = resolve_live("gst:nvarguscamerasrc sensor-id=0 ! nvvidconv", Asked())
    assert (found.name, found.shown) == ("gst-nvarguscamerasrc", "gst:nvarguscamerasrc …")
    with found.open(2.5) as reader:
        assert reader.rate_fps == 30
        pictures = list(reader)
    (capture,) = cv2.captures
    assert capture.pipeline == (
        "nvarguscamerasrc sensor-id=0 ! nvvidconv ! videoconvert ! video/x-raw, format=BGR ! appsink max-buffers=2 "
        "drop=true"
    )
    assert capture.backend == 1800
    assert capture.released.wait(20)
    assert [picture.time_s for picture in pictures] == pytest.approx([1 / 30, 2 / 30, 3 / 30])
    assert all((picture.rgb == [200, 0, 0]).all() and picture.rgb.shape == (2, 3, 3) for picture in pictures)


def test_a_pipeline_with_a_sink_of_its_own_and_no_times(cv2: OpenCv) -> None:
    """It is left as it is; grey is one picture of three equal colours."""
    with resolve_live("gst:notime norate grey ! appsink", Asked()).open(1.0) as reader:
        assert reader.rate_fps is None
        pictures = list(reader)
    assert cv2.captures[0].pipeline == "notime norate grey ! appsink"
    assert [picture.time_s for picture in pictures] == [None] * 3
    assert {picture.rgb.shape for picture in pictures} == {(2, 3, 3)}


def test_what_takes_too_long_is_lost(cv2: OpenCv) -> None:
    """OpenCV waits for ever; its thread is left alone, and lets the pipeline go when it wakes up."""
    found = []
    with resolve_live("gst:hangs", Asked()).open(0.3) as reader:
        pictures = iter(reader)
        found += [next(pictures) for _ in range(3)]
        with pytest.raises(SourceLostError, match=r"nothing came for 0.3 s"):
            next(pictures)
    (capture,) = cv2.captures
    assert not capture.released.is_set()
    capture.hangs.set()
    assert capture.released.wait(20)
    assert len(found) == 3


def test_a_pipeline_that_does_not_start(cv2: OpenCv) -> None:
    """A loss, which whoever connects turns into one line."""
    with pytest.raises(SourceLostError, match="try it with gst-launch"):
        resolve_live("gst:broken", Asked()).open(1.0)
    assert cv2.captures[0].released.wait(20)


def test_opencv_of_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no GStreamer; where to get one that has is said, and nothing else of the pipeline."""
    pytest.importorskip("cv2")
    with pytest.raises(GmosError, match=r"gst:src …: this OpenCV .* was built without GStreamer") as error:
        resolve_live("gst:src location=rtsp://u:secret@host ! decodebin", Asked())
    assert "secret" not in str(error.value)


def test_no_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is that an import error."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(GmosError, match="pipelines of GStreamer need OpenCV"):
        resolve_live("gst:videotestsrc", Asked())
