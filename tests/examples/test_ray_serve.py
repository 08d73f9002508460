"""A clip over HTTP to Ray Serve on 127.0.0.1, and its tracks back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

import gmos_deploy

EXAMPLE = Path(gmos_deploy.__file__).parent / "examples/ray_serve.py"
LIMIT_S = 180.0
FRAMES = 6


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The example, on a port that is free."""
    pytest.importorskip("ray.serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"backend": "onnxruntime", "device": "cpu", "threads": 1, "stride": 1}
    process = subprocess.Popen(
        [sys.executable, EXAMPLE],
        env={**os.environ, "GMOS_PORT": str(port), "GMOS_OPTIONS": json.dumps(options)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    where = f"http://127.0.0.1:{port}/"
    try:
        until = time.monotonic() + LIMIT_S
        while answer(where + "-/healthz", None)[0] != 200:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        yield where
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def answer(where: str, body: bytes | None) -> tuple[int, bytes]:
    """Status and body; 0 where nobody listens."""
    try:
        with urllib.request.urlopen(urllib.request.Request(where, data=body), timeout=LIMIT_S) as found:  # noqa: S310
            return found.status, found.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A box that moves, as MP4."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(FRAMES):
            rgb = np.full((64, 96, 3), 128, np.uint8)
            rgb[16:40, 8 + 6 * index : 32 + 6 * index] = (220, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb)))
        container.mux(stream.encode())
    return path


def test_a_clip_in_tracks_out(address: str, clip: Path) -> None:
    """The file of gmos-run --save_mode tracks; what is no clip is refused with the reason, and the next one served."""
    status, body = answer(address, b"no video at all")
    assert (status, "error" in json.loads(body)) == (422, True)
    status, body = answer(address, clip.read_bytes())
    assert status == 200, body
    tracks = json.loads(body)
    assert (tracks["result"], len(tracks["frames"])) == ("mos", FRAMES)
