"""Servers on 127.0.0.1 that give video as cameras do; each ends with its `with` statement."""

from __future__ import annotations

import base64
import io
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any

import av
import numpy as np

HW = (48, 64)
FPS = 25
TS_PACKETS = 7 * 188
"""Bytes of MPEG-TS in an RTP packet (RFC 2250)."""
MP2T = 33
"""Static payload type of MPEG-TS (RFC 3551)."""


def coded(frames: int, container: str = "mpegts", codec: str = "libx264", **options: str) -> bytes:
    """A video of so many frames at 25 a second, as a stream of bytes."""
    file = io.BytesIO()
    texture = np.random.default_rng(7).integers(0, 255, (*HW, 3), dtype=np.uint8)
    with av.open(file, "w", format=container, options=options) as output:
        stream: Any = output.add_stream(codec, rate=FPS)
        stream.height, stream.width = HW
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec == "libx264":
            stream.options = {"tune": "zerolatency", "g": "5"}
        for index in range(frames):
            picture = av.VideoFrame.from_ndarray(np.roll(texture, index, axis=1), format="rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    return file.getvalue()


class Server:
    """Answers each connection with a function, one after the other, until it is left."""

    def __init__(self, answer: Callable[[socket.socket], None], port: int = 0) -> None:
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0
        self._thread = Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes `accept`, which closing alone does not.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                connection.settimeout(10)
                with connection, suppress(OSError):
                    self._answer(connection)


def request(connection: socket.socket) -> tuple[str, dict[str, str]]:
    """The first line of a request of HTTP or RTSP and its headers."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        got = connection.recv(1)
        if not got:
            raise OSError
        head += got
    first, *lines = head.decode().strip().split("\r\n")
    return first, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


class RtspCamera:
    """A camera that speaks RTSP 1.0 over TCP and sends MPEG-TS in RTP: as little as FFmpeg asks for.

    Args:
        video: MPEG-TS, sent once; then the connection is closed.
        login: "user:password" that it asks for.
    """

    def __init__(self, video: bytes, login: str | None = None) -> None:
        self._video = video
        self._login = login
        self.refused = 0

    def __call__(self, connection: socket.socket) -> None:
        """Answer one connection."""
        while True:
            first, headers = request(connection)
            method = first.split()[0]
            if self._login is not None and not self._admits(headers):
                self.refused += 1
                self._reply(
                    connection, headers, 'WWW-Authenticate: Basic realm="camera"', status="401 Unauthorized"
                )
                continue
            if method == "DESCRIBE":
                description = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\n"
                    f"m=video 0 RTP/AVP {MP2T}\r\na=control:track1\r\n"
                )
                self._reply(connection, headers, "Content-Type: application/sdp", body=description)
            elif method == "SETUP":
                self._reply(
                    connection,
                    headers,
                    "Transport: RTP/AVP/TCP;unicast;interleaved=0-1",
                    "Session: 1;timeout=60",
                )
            elif method == "PLAY":
                self._reply(connection, headers, "Session: 1")
                self._send(connection)
                return
            else:
                self._reply(connection, headers, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")

    def _admits(self, headers: dict[str, str]) -> bool:
        assert self._login is not None
        return headers.get("authorization") == "Basic " + base64.b64encode(self._login.encode()).decode()

    @staticmethod
    def _reply(
        connection: socket.socket,
        headers: dict[str, str],
        *lines: str,
        status: str = "200 OK",
        body: str = "",
    ) -> None:
        head = [f"RTSP/1.0 {status}", f"CSeq: {headers['cseq']}", *lines, f"Content-Length: {len(body)}"]
        connection.sendall(("\r\n".join(head) + "\r\n\r\n" + body).encode())

    def _send(self, connection: socket.socket) -> None:
        for number, start in enumerate(range(0, len(self._video), TS_PACKETS)):
            payload = self._video[start : start + TS_PACKETS]
            packet = struct.pack(">BBHII", 0x80, MP2T, number & 0xFFFF, 0, 1) + payload
            connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)


def respond(connection: socket.socket, body: bytes, *headers: str, status: str = "200 OK") -> None:
    """Send a body: in chunks, unless headers say how it ends."""
    ends = any(header.startswith(("Content-Length", "Connection")) for header in headers)
    framing = [] if ends else ["Transfer-Encoding: chunked"]
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, *framing])
    chunk = body if ends else f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    connection.sendall(head.encode() + b"\r\n\r\n" + chunk)


def http(body: bytes, *headers: str, status: str = "200 OK") -> Callable[[socket.socket], None]:
    """A server of HTTP that sends one body, whatever is asked for."""

    def answer(connection: socket.socket) -> None:
        request(connection)
        respond(connection, body, *headers, status=status)

    return answer
