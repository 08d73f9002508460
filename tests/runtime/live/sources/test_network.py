"""Real streams over 127.0.0.1: RTSP, UDP, TCP and HTTP; what an address may open, and what it never shows."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

import av
import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.live.incoming import LiveFrame
from gmos_deploy.runtime.live.reading import LiveFrames, ReadingOptions
from gmos_deploy.runtime.live.sources.network import SCHEMES
from gmos_deploy.runtime.live.sources.registry import resolve_live
from gmos_deploy.runtime.live.sources.source import Asked, Picture, SourceLostError

from .servers import FPS, HW, RtspCamera, Server, coded, http, request, respond

OPTIONS = ReadingOptions(timeout_s=5.0)
FRAMES = 30


@pytest.fixture(scope="module")
def transport_stream() -> bytes:
    """30 frames at 25 a second."""
    return coded(FRAMES)


def frames_of(address: str, *, live: bool = False, **options: Any) -> LiveFrames:
    return LiveFrames(resolve_live(address, Asked(live=live)), OPTIONS, **options)


def test_rtsp(transport_stream: bytes) -> None:
    """Frames with the camera's times, at the rate that it has; a camera never ends, so its end is a loss."""
    with Server(RtspCamera(transport_stream)) as server:
        frames = frames_of(f"rtsp://127.0.0.1:{server.port}/live", pause=lambda _: False)
        found = list(frames)
    assert frames.start is not None
    assert frames.start.video_hw == HW
    assert frames.start.rate_fps == pytest.approx(FPS)
    assert len(found) >= FRAMES - 2
    assert [frame.index for frame in found] == list(range(len(found)))
    assert [frame.time_s for frame in found] == pytest.approx([i / FPS for i in range(len(found))], abs=1e-4)
    assert not any(frame.new_sequence for frame in found)


def test_an_rtsp_camera_that_stops_and_comes_back(
    transport_stream: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its server is gone for three attempts; then a new sequence begins. The password is shown nowhere."""
    camera = RtspCamera(transport_stream, "admin:hunter2")
    servers = [Server(camera).__enter__()]
    port, pauses = servers[0].port, []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 1:
            servers[0].__exit__()
        elif len(pauses) == 3:
            servers.append(Server(camera, port).__enter__())
        # Once more after the second connection has ended.
        return len(pauses) < 4

    with caplog.at_level(logging.INFO, logger="gmos_deploy"):
        frames = frames_of(f"rtsp://admin:hunter2@127.0.0.1:{port}/live", pause=pause)
        found = list(frames)
    servers[1].__exit__()
    assert len(found) >= 2 * (FRAMES - 2)
    assert [frame.index for frame in found] == list(range(len(found)))
    assert sum(frame.new_sequence for frame in found) == 1
    assert frames.reconnects == 1
    assert pauses[:3] == [0.5, 1.0, 2.0]
    assert camera.refused >= 1
    assert f"rtsp://127.0.0.1:{port}/live was lost: " in caplog.text
    assert "is back after" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_wrong_password(transport_stream: bytes) -> None:
    """One line, without it."""
    with Server(RtspCamera(transport_stream, "admin:hunter2")) as server:
        frames = frames_of(f"rtsp://admin:hunter3@127.0.0.1:{server.port}/live")
        with pytest.raises(GmosError, match="cannot be read: Server returned 401 Unauthorized") as error:
            list(frames)
    assert "hunter" not in str(error.value)


def test_nobody_listens() -> None:
    """One line, at once."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(GmosError, match=f"rtsp://127.0.0.1:{port}/x cannot be read: Connection refused"):
        list(frames_of(f"rtsp://127.0.0.1:{port}/x"))


def test_a_server_that_says_nothing() -> None:
    """It is waited for no longer than the time-out."""
    over = Event()
    with Server(lambda _: over.wait(10) and None) as server:
        source = resolve_live(f"rtsp://127.0.0.1:{server.port}/x", Asked())
        try:
            with pytest.raises(SourceLostError, match=r"no answer within 0\.3 s"):
                source.open(0.3)
        finally:
            over.set()


@contextmanager
def sending(url: str, ready: Event) -> Iterator[None]:
    """Sends H.264 in MPEG-TS over UDP, at its rate, from when a reader is ready until the end of the block."""
    over = Event()

    def send() -> None:
        texture = np.random.default_rng(7).integers(0, 255, (*HW, 3), dtype=np.uint8)
        with av.open(url, "w", format="mpegts") as output:
            stream: Any = output.add_stream("libx264", rate=FPS)
            stream.height, stream.width = HW
            stream.pix_fmt = "yuv420p"
            stream.options = {"tune": "zerolatency", "g": "5"}
            index = 0
            while not over.wait(1 / FPS):
                picture = av.VideoFrame.from_ndarray(np.roll(texture, index, axis=1), format="rgb24")
                output.mux(stream.encode(picture))
                index += 1

    thread = Thread(target=lambda: ready.wait(10) and send(), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        ready.set()
        thread.join(10)


def test_udp() -> None:
    """MPEG-TS as encoders send it: frames come while it is sent, and when it stops it is lost."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ready = Event()
    ready.set()
    found: list[LiveFrame] = []
    frames = LiveFrames(
        resolve_live(f"udp://127.0.0.1:{port}", Asked()), ReadingOptions(timeout_s=4), pause=lambda _: False
    )
    reading = iter(frames)
    with sending(f"udp://127.0.0.1:{port}?pkt_size=1316", ready):
        found += islice(reading, 20)
    reading.close()
    assert frames.start is not None
    assert frames.start.rate_fps == pytest.approx(FPS, rel=0.02)
    assert frames.start.video_hw == HW
    assert len(found) == 20
    # The decoder needs a key frame to begin, and no frame is lost after it.
    assert [frame.index for frame in found] == list(range(20))


def test_tcp_ends(transport_stream: bytes) -> None:
    """What a peer closes is over."""
    with Server(lambda connection: connection.sendall(transport_stream)) as server:
        assert len(list(frames_of(f"tcp://127.0.0.1:{server.port}"))) == FRAMES


def test_http_without_an_end(transport_stream: bytes) -> None:
    """A server that states no length sends a stream; where its last chunk comes, that is the end."""
    with Server(http(transport_stream)) as server:
        frames = frames_of(f"http://127.0.0.1:{server.port}/live?token=hunter2")
        assert len(list(frames)) == FRAMES
        assert frames.source.shown == f"http://127.0.0.1:{server.port}/live?…"
        assert not frames.source.waits


def test_http_that_just_stops(transport_stream: bytes) -> None:
    """Without a length and without chunks, an end and a loss are one; it is connected again, as a camera would be."""
    with Server(http(transport_stream, "Connection: close")) as server:
        address = f"http://127.0.0.1:{server.port}/live"
        assert len(list(frames_of(address, pause=lambda _: False))) == FRAMES


def test_http_with_an_end(transport_stream: bytes) -> None:
    """A file, unless --live says to play it; then it is read as it is taken."""
    with Server(http(transport_stream, f"Content-Length: {len(transport_stream)}")) as server:
        address = f"http://127.0.0.1:{server.port}/clip.ts"
        with pytest.raises(
            GmosError, match=r"clip.ts has an end \(.*\), so it is a file and no stream; download it"
        ):
            list(frames_of(address))
        frames = frames_of(address, live=True)
        assert frames.source.waits
        assert len(list(frames)) == FRAMES


def test_motion_jpeg() -> None:
    """Cameras' pictures without times: FFmpeg makes up 25 a second, and they are measured by their arrival."""
    pictures = coded(12, "mpjpeg", "mjpeg")
    found: list[Picture] = []
    content = "Content-Type: multipart/x-mixed-replace;boundary=ffmpeg"
    with Server(http(pictures, content)) as server:
        source = resolve_live(f"http://127.0.0.1:{server.port}/video", Asked())
        with source.open(5.0) as reader:
            assert reader.rate_fps is None
            # What a camera sends never ends, and an end is damage.
            with suppress(SourceLostError):
                for picture in reader:
                    found.append(picture)  # noqa: PERF402 - kept when it raises
    assert len(found) == 12
    assert {picture.time_s for picture in found} == {None}


def test_no_video(transport_stream: bytes) -> None:
    """Text, and a wrong page."""
    with (
        Server(http(b"<html>log in</html>" * 99)) as server,
        pytest.raises(GmosError, match="cannot be read: Invalid data found"),
    ):
        list(frames_of(f"http://127.0.0.1:{server.port}/"))
    with (
        Server(http(b"", status="404 Not Found")) as server,
        pytest.raises(GmosError, match="cannot be read: Server returned 404 Not Found"),
    ):
        list(frames_of(f"http://127.0.0.1:{server.port}/"))


def test_damage_is_left_out() -> None:
    """Zeros in the middle cost some frames, and no more."""
    video = bytearray(coded(FRAMES))
    video[len(video) // 2 : len(video) // 2 + 4 * 188] = bytes(4 * 188)
    with Server(http(bytes(video))) as server:
        found = list(frames_of(f"http://127.0.0.1:{server.port}/"))
    assert FRAMES - 10 < len(found) < FRAMES


# Each names something beside itself: a file of this machine, or what a file is part of.
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\n{}\n"


@pytest.mark.parametrize(
    "segment",
    ["file://{path}", "{path}", "subfile,,start,0,end,0,,:{path}", "concat:{path}|{path}", "crypto:{path}"],
)
def test_a_playlist_opens_no_file(segment: str, transport_stream: bytes, tmp_path: Path) -> None:
    """A server cannot have this machine's files read."""
    secret = tmp_path / "secret.ts"
    secret.write_bytes(transport_stream)
    playlist = PLAYLIST.format(segment.format(path=secret)).encode()
    kind = "Content-Type: application/vnd.apple.mpegurl"
    with Server(http(playlist, kind)) as server, pytest.raises(GmosError):
        list(
            LiveFrames(
                resolve_live(f"http://127.0.0.1:{server.port}/live.m3u8", Asked()),
                ReadingOptions(timeout_s=1.0),
            )
        )


def test_a_playlist_of_what_it_may(transport_stream: bytes) -> None:
    """The same playlist with a segment of the server's own is read."""

    def answer(connection: socket.socket) -> None:
        first, _ = request(connection)
        playlist = PLAYLIST.format("a.ts") + "#EXT-X-ENDLIST\n"
        respond(connection, transport_stream if "a.ts" in first else playlist.encode())

    with Server(answer) as server:
        found = list(frames_of(f"http://127.0.0.1:{server.port}/live.m3u8", live=True))
    assert len(found) == FRAMES


def test_a_playlist_that_goes_on(transport_stream: bytes) -> None:
    """Live HLS is no file, although its playlist has a length; one that is closed is."""
    playlist = PLAYLIST.format("a.ts").encode()

    def answer(connection: socket.socket) -> None:
        first, _ = request(connection)
        body = transport_stream if "a.ts" in first else playlist
        respond(connection, body, f"Content-Length: {len(body)}")

    with Server(answer) as server:
        address = f"http://127.0.0.1:{server.port}/live.m3u8"
        frames = iter(frames_of(address))
        assert len(list(islice(frames, 10))) == 10
        frames.close()
        playlist += b"#EXT-X-ENDLIST\n"
        with pytest.raises(GmosError, match=r"live.m3u8 has an end \(1.0 s\), so it is a file"):
            list(frames_of(address))


@pytest.mark.parametrize("body", [b"ffconcat version 1.0\nfile '{}'\n", b"v=0\r\nm=video 9 RTP/AVP 33\r\n"])
def test_scripts_are_not_read(body: bytes, transport_stream: bytes, tmp_path: Path) -> None:
    """Formats that name files, ports or devices are on no list."""
    secret = tmp_path / "secret.ts"
    secret.write_bytes(transport_stream)
    script = body.replace(b"{}", str(secret).encode())
    with Server(http(script)) as server, pytest.raises(GmosError, match=r"Invalid (data|argument)"):
        list(frames_of(f"http://127.0.0.1:{server.port}/x"))


def test_no_scheme_opens_files() -> None:
    """Nor anything else of this machine."""
    for rules in SCHEMES.values():
        assert not set(rules.protocols.split(",")) & {
            "file",
            "pipe",
            "fd",
            "subfile",
            "concat",
            "data",
            "unix",
        }


GSTREAMER = """
import gi, sys
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory(shared=True)
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=64,height=48,framerate=25/1 ! "
    "x264enc tune=zerolatency key-int-max=5 ! rtph264pay name=pay0 pt=96 )"
)
server.get_mount_points().add_factory("/live", factory)
if not server.attach(None):
    sys.exit("the port is taken")
print(server.get_bound_port(), flush=True)
GLib.timeout_add_seconds(60, sys.exit)
GLib.MainLoop().run()
"""
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin")


def has_gstreamer_rtsp() -> bool:
    """Whether the system's Python has GStreamer's RTSP server and an encoder for it."""
    code = (
        "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
        "Gst.init(None); assert Gst.ElementFactory.find('x264enc') and Gst.ElementFactory.find('rtph264pay')"
    )
    if SYSTEM_PYTHON is None:
        return False
    return subprocess.run([SYSTEM_PYTHON, "-c", code], check=False, capture_output=True).returncode == 0


@contextmanager
def gstreamer_server(port: int = 0) -> Iterator[int]:
    """GStreamer's server in a process of its own."""
    assert SYSTEM_PYTHON is not None
    with subprocess.Popen(
        [SYSTEM_PYTHON, "-c", GSTREAMER, str(port)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def test_gstreamers_rtsp_server_stops_and_comes_back() -> None:
    """A server of somebody else's: H.264 in RTP, whichever transport it agrees on."""
    if not has_gstreamer_rtsp():
        pytest.skip(
            "no RTSP server of GStreamer here (Debian: gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-ugly)"
        )
    found: list[LiveFrame] = []
    pauses: list[float] = []
    with gstreamer_server() as port:
        frames = frames_of(
            f"rtsp://127.0.0.1:{port}/live", pause=lambda _: bool(pauses.append(1.0)) or len(pauses) < 9
        )
        reading = iter(frames)
        found += islice(reading, 25)
    assert frames.start is not None
    assert (frames.start.video_hw, frames.start.rate_fps) == (HW, FPS)
    with gstreamer_server(port):
        while not found[-1].new_sequence:
            found.append(next(reading))
        found += islice(reading, 10)
    reading.close()
    numbers = [frame.index for frame in found]
    assert numbers == sorted(set(numbers))
    assert frames.reconnects == 1
    assert len(pauses) >= 1
