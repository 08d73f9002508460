"""Whoever reaches the preview's port can take no descriptors from the run."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from gmos_deploy.runtime.live.preview.server import MOST_CONNECTIONS, Preview

LIMIT_S = 60
FLOOD = 400
ROOM = MOST_CONNECTIONS + 100
"""Descriptors that are left to the process: fewer than knock."""


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_connections_that_come_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds, while the server's thread was busy: they are taken a few at a time, and those too many closed."""
    import resource

    caplog.set_level(logging.ERROR, "asyncio")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    busy, done = threading.Event(), threading.Event()
    with Preview("127.0.0.1", 0) as preview, ExitStack() as stack:
        loop = preview._loop
        assert loop is not None
        loop.call_soon_threadsafe(busy.wait, LIMIT_S)
        stack.callback(busy.set)
        for _ in range(FLOOD):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", preview._port))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        taken = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + ROOM, limits[1]))

        def later(turns: int) -> None:
            if turns:
                loop.call_soon(later, turns - 1)
            else:
                done.set()

        loop.call_soon_threadsafe(later, 100)
        busy.set()
        assert done.wait(LIMIT_S)
    # It says there that none is left.
    assert not caplog.messages
