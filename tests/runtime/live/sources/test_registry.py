"""What is a stream, what is a file, and what is neither."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.live.sources import camera as camera_module
from gmos_deploy.runtime.live.sources import registry
from gmos_deploy.runtime.live.sources.registry import live_source_of, register_live_source, resolve_live
from gmos_deploy.runtime.live.sources.source import Asked, LiveInput, SourceLostError

MakeVideo = Callable[..., Path]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("0", "camera"),
        ("12", "camera"),
        ("/dev/video0", "camera"),
        ("rtsp://camera/1", "network stream"),
        ("udp://239.0.0.1:1234", "network stream"),
        ("http://host/live.ts", "network stream"),
        ("ftp://host/clip.mp4", "network stream"),
        ("-", "pipe"),
        ("gst:videotestsrc", "GStreamer pipeline"),
        ("clip.mp4", None),
        ("1.5", None),
        ("concat:a.mp4|b.mp4", None),
        ("subfile,,start,0,end,9,,:a.mp4", None),
        ("video0", None),
        ("²", None),
    ],
)
def test_kinds(given: str, kind: str | None) -> None:
    """By how it is written."""
    found = live_source_of(given)
    assert (found and found.kind) == kind


def test_an_existing_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a number, and over a prefix; standard input is `-` all the same."""
    monkeypatch.chdir(tmp_path)
    for name in ("0", "gst:a", "-"):
        Path(name).write_bytes(b"")
    Path("7").mkdir()
    assert [live_source_of(name) for name in ("0", "7", "gst:a")] == [None] * 3
    found = live_source_of("-")
    assert found is not None
    assert found.kind == "pipe"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_neither_a_file_nor_a_camera(tmp_path: Path) -> None:
    """A named pipe and a device are no streams by themselves."""
    os.mkfifo(tmp_path / "pipe")
    assert live_source_of(str(tmp_path / "pipe")) is None
    assert live_source_of("/dev/null") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "ftp://u:hunter2@host/x",
            "ftp://host/x: addresses of ftp:// are not read; expected one of rtsp://, ",
        ),
        ("file:///etc/passwd", "addresses of file:// are not read"),
        ("concat://a|b", "addresses of concat:// are not read"),
        ("http:///x", "http:///x has no host; expected an address as http://HOST:PORT/PATH"),
        ("rtsp://u:hunter2@/x", "rtsp:///x has no host"),
        ("http://[::1/x", "has no host"),
        ("gst: ", "expected a pipeline after gst:"),
        ("nothing.mp4", "nothing.mp4 does not exist; expected a video file or a directory of frames"),
        ("concat:a.mp4|b.mp4", "does not exist"),
    ],
)
def test_what_cannot_be_used(given: str, message: str) -> None:
    """One line, without what is secret."""
    with pytest.raises(GmosError) as error:
        resolve_live(given, Asked(live=True))
    assert message in str(error.value)
    assert "hunter2" not in str(error.value)


def test_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is a device; those that are there are named where it is not one of them."""
    monkeypatch.setattr(camera_module, "DEVICE", str(tmp_path / "video"))
    monkeypatch.setattr(camera_module.platform, "system", lambda: "Linux")
    with pytest.raises(GmosError, match=r"0: there is no camera .*video0, and no other one"):
        resolve_live("0", Asked())
    (tmp_path / "video2").touch()
    with pytest.raises(GmosError, match=r"0: there is no camera .*video0; expected one of .*video2$"):
        resolve_live("0", Asked())
    found = resolve_live("02", Asked())
    assert (found.kind, found.name, found.shown) == ("camera", "video2", str(tmp_path / "video2"))
    assert (found.waits, found.returns, found.counted) == (False, True, False)
    monkeypatch.setattr(camera_module.platform, "system", lambda: "Darwin")
    with pytest.raises(GmosError, match="cameras are read by Video4Linux, and this is Darwin"):
        resolve_live("2", Asked())


def test_a_camera_is_opened_as_one(
    make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Video4Linux and nothing else, with the rate that is asked for; where it stops it is lost."""
    opened: list[tuple[str, dict[str, Any]]] = []
    real = av.open

    def instead(device: str, mode: str, **options: Any) -> Any:
        opened.append((device, options))
        return real(str(path), mode)

    path = make_video(frames=3, fps=30)
    (tmp_path / "video3").touch()
    monkeypatch.setattr(camera_module, "DEVICE", str(tmp_path / "video"))
    monkeypatch.setattr(camera_module.platform, "system", lambda: "Linux")
    source = resolve_live("3", Asked(fps=15))
    monkeypatch.setattr(camera_module.av, "open", instead)
    found = []
    with source.open(4.0) as reader:
        pictures = iter(reader)
        found += [next(pictures) for _ in range(3)]
        with pytest.raises(SourceLostError, match="it was closed at the other end"):
            next(pictures)
    assert len(found) == 3
    ((device, options),) = opened
    assert device == str(tmp_path / "video3")
    assert (options["format"], options["timeout"], options["options"]) == (
        "v4l2",
        (4.0, 4.0),
        {"framerate": "15"},
    )
    assert options["container_options"]["protocol_whitelist"] == "none"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("rtsp://u:p@camera:554/a/b?token=1", "camera-554-a-b"),
        ("udp://@239.0.0.1:1234", "239.0.0.1-1234"),
        ("http://host/../..", "host"),
        ("rtsp://" + "h" * 300 + "/x", "h" * 80),
    ],
)
def test_names(given: str, name: str) -> None:
    """Results are filed by host and path, as the name of a file."""
    assert resolve_live(given, Asked()).name == name


def test_files(make_video: MakeVideo) -> None:
    """Checked as for a run over files; every frame, or in their own time."""
    path = make_video(frames=3, fps=30)
    found = resolve_live(str(path), Asked(live=True))
    assert (found.kind, found.name, found.rate_fps, found.stride) == ("file", "clip", 30.0, 3)
    assert (found.waits, found.returns, found.counted) == (True, False, True)
    assert not resolve_live(str(path), Asked(live=True, dropping=True)).waits
    assert resolve_live(str(path), Asked(live=True, fps=80)).stride == 10


class Own:
    """A kind of somebody else's."""

    kind = "own"

    def takes(self, given: str) -> bool:
        return given.startswith("own:")

    def resolve(self, given: str, asked: Asked) -> LiveInput:
        def open_own(_: float) -> Any:
            raise AssertionError

        return LiveInput(kind=self.kind, name=given[4:], shown=given, open=open_own)


def test_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked first, and its name is its own."""
    monkeypatch.setattr(registry, "LIVE_SOURCES", list(registry.LIVE_SOURCES))
    register_live_source(Own())
    assert resolve_live("own:robot", Asked()).name == "robot"
    with pytest.raises(GmosError, match="a live source named 'own' is registered already"):
        register_live_source(Own())
