"""A container on standard input: read as it comes, ended where it ends, and one line where it is no video."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.live.reading import LiveFrames
from gmos_deploy.runtime.live.sources.pipe import open_pipe
from gmos_deploy.runtime.live.sources.registry import resolve_live
from gmos_deploy.runtime.live.sources.source import Asked, SourceLostError

from .servers import FPS, HW, coded

JPEG = b"\xff\xd8\xff"
"""How a picture of Motion JPEG begins."""


@contextmanager
def pipe_of(data: bytes, *, open_after: bool = False) -> Iterator[int]:
    """The reading end of a pipe that somebody writes into, and perhaps leaves open."""
    reading, writing = os.pipe()
    rest = [writing]

    def write() -> None:
        with os.fdopen(os.dup(writing), "wb") as file:
            file.write(data)
        if not open_after:
            os.close(rest.pop())

    thread = Thread(target=write, daemon=True)
    thread.start()
    try:
        yield reading
    finally:
        os.close(reading)
        thread.join(10)
        for descriptor in rest:
            os.close(descriptor)


@pytest.mark.parametrize("container", ["matroska", "mpegts", "nut"])
def test_containers(container: str) -> None:
    """Every frame, with its time."""
    with pipe_of(coded(20, container)) as descriptor, open_pipe(descriptor, 5.0) as reader:
        assert reader.rate_fps == pytest.approx(FPS)
        found = list(reader)
    assert {picture.rgb.shape for picture in found} == {(*HW, 3)}
    times = [picture.time_s or 0.0 for picture in found]
    assert [time - times[0] for time in times] == pytest.approx([i / FPS for i in range(20)], abs=1e-3)


def test_damage_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """When it begins, and how much it was at the end; what is whole comes."""
    first, *pictures = coded(12, "matroska", "mjpeg").split(JPEG)
    for place in (3, 4, 9):
        # The next one's header lies behind it.
        pictures[place] = bytes(len(pictures[place]) - 40) + pictures[place][-40:]
    with pipe_of(JPEG.join([first, *pictures])) as descriptor, open_pipe(descriptor, 5.0) as reader:
        found = list(reader)
    assert len(found) == 9
    assert caplog.messages == [
        "standard input: a damaged picture was left out",
        "standard input: 3 damaged pictures were left out",
    ]


@pytest.mark.parametrize("data", [b"", b"no video at all" * 99, b"ffconcat version 1.0\nfile 'a'\n"])
def test_no_video(data: bytes) -> None:
    """One line that says what can be piped."""
    with (
        pipe_of(data) as descriptor,
        pytest.raises(
            GmosError, match=r"standard input is no video that can be read as it comes \(.*\); expec"
        ),
    ):
        open_pipe(descriptor, 5.0)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes cannot be waited for there")
def test_a_pipe_that_hangs() -> None:
    """A loss, whether it has begun or not."""
    with (
        pipe_of(coded(2, "mpegts"), open_after=True) as descriptor,
        pytest.raises(SourceLostError, match=r"nothing came for 0.5 s"),
    ):
        open_pipe(descriptor, 0.5)
    found = []
    with (
        pipe_of(coded(60, "matroska"), open_after=True) as descriptor,
        suppress(SourceLostError),
        open_pipe(descriptor, 0.5) as reader,
    ):
        for picture in reader:
            found.append(picture)  # noqa: PERF402 - kept when it raises
    assert len(found) > 50


def test_raw_pictures_have_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor times: it is asked for, as when they come they say nothing of what waits."""
    with pipe_of(coded(20, "h264")) as descriptor, os.fdopen(os.dup(descriptor)) as file:
        monkeypatch.setattr(sys, "stdin", file)
        with pytest.raises(
            GmosError, match="standard input states no frame rate, and its frames have no times"
        ):
            list(LiveFrames(resolve_live("-", Asked())))


def test_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody types a video."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal, os.fdopen(ours):
        monkeypatch.setattr(sys, "stdin", terminal)
        with pytest.raises(GmosError, match="- is standard input, and that is a terminal; expected a video"):
            resolve_live("-", Asked())
