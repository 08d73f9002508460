"""The preview's server: a thread of its own beside a run, which never waits for it."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ....errors import GmosError
from ...frame_result import FrameResult
from ...media import OverlayStyle
from .app import PreviewApp
from .broadcast import Broadcast, Latest, Numbers
from .guard import Guard, check_token

if TYPE_CHECKING:
    from uvicorn import Server

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 64
"""More are closed at once: files of the run need descriptors, too."""
BACKLOG = 16
"""Connections that the system holds until they are taken, and that asyncio takes before it looks at any of them."""
SPEAK_S = 10.0
"""A connection on which no request comes for so long is closed."""
SEND_BUFFER_BYTES = 256 << 10
"""Of a connection: what waits there is old when a slow viewer gets it."""
STOP_S = 1.0
"""How long viewers have to take the end."""
JOIN_S = 5.0


class Preview:
    """A page with the latest answer, for browsers. A `LiveSink`; the server runs while it is entered.

    `write` puts the latest answer where the server finds it, and does nothing else: pictures are made in the server's
    thread, at most one an answer for all viewers, and only while there are any. A viewer that is slower gets fewer.
    """

    needs_rgb = True

    def __init__(
        self,
        host: str,
        port: int,
        token: str | None = None,
        *,
        name: str = "stream",
        overlay: OverlayStyle = "labelled",
    ) -> None:
        """Check what was asked for.

        Args:
            host: to listen on; one that others reach needs a token.
            port: 0 for any that is free.
            token: what viewers have to show, 8 or more ASCII characters.
            name: of the stream, for the page.
            overlay: how answers are drawn.

        Raises:
            GmosError: no token where one is needed, one that is too short, or uvicorn is not installed.
        """
        check_token(host, token)
        try:
            import uvicorn  # noqa: F401, PLC0415 - an extra
        except ImportError as error:
            raise GmosError(
                f"--preview needs uvicorn ({error}); install it with pip install 'gmos-deploy[live]'"
            ) from error
        self._host, self._port, self._token = host, port, token
        self._name = name
        self._style: OverlayStyle = overlay
        self._latest = Latest()
        self._broadcast: Broadcast | None = None
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: _Connections | None = None
        self._calling = False

    @property
    def url(self) -> str:
        """Address of the page, without the token."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/"

    def __enter__(self) -> Preview:
        """Start the server.

        Raises:
            GmosError: it cannot listen there.
        """
        listening = self._listen()
        self._port = listening.getsockname()[1]
        started = threading.Event()

        def run() -> None:
            try:
                asyncio.run(self._serve(listening, started))
            finally:
                started.set()

        self._thread = threading.Thread(target=run, name="preview", daemon=True)
        self._thread.start()
        started.wait()
        return self

    def write(self, answer: FrameResult) -> None:
        """See `LiveSink`."""
        self._latest.put(answer)
        # One call waits at most, whatever the server's thread is doing.
        if not self._calling and self._loop is not None:
            self._calling = True
            # The server has ended.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._called)

    def told(self, numbers: Numbers) -> None:
        """Show counts of the run by their names; drops and resets replace those that answers tell of."""
        self._latest.told = dict(numbers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let viewers go and end the server."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None:
            return
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop)
        thread.join(JOIN_S)

    def _listen(self) -> socket.socket:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind, protocol)
        except OSError as error:
            raise GmosError(f"--preview {self._host}:{self._port}: {_reason(error)}") from error
        try:
            if sys.platform != "win32":
                # A port that a run before has just left can be had again; on Windows this would share it.
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            listening.bind(address)
            listening.listen()
        except OSError as error:
            listening.close()
            raise GmosError(f"--preview {self._host}:{self._port}: {_reason(error)}") from error
        return listening

    async def _serve(self, listening: socket.socket, started: threading.Event) -> None:
        import uvicorn  # noqa: PLC0415 - an extra

        self._loop = asyncio.get_running_loop()
        self._broadcast = Broadcast(self._latest, self._style)
        connections = self._connections = _Connections(self._loop)
        app = PreviewApp(
            name=self._name,
            guard=Guard(self._host, self._port, self._token),
            broadcast=self._broadcast,
            cut=connections.cut,
        )
        config = uvicorn.Config(
            connections.heard_by(app),
            http=connections.protocol(),
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            # Addresses may hold the token.
            access_log=False,
            log_config=None,
            log_level=logging.CRITICAL,
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(STOP_S) + 1,
        )
        self._server = uvicorn.Server(config)
        started.set()
        making = asyncio.ensure_future(self._broadcast.run())
        try:
            await self._server.serve(sockets=[listening])
        finally:
            listening.close()
            self._broadcast.end()
            await making

    def _called(self) -> None:
        self._calling = False
        if self._broadcast is not None:
            self._broadcast.news()

    def _stop(self) -> None:
        if self._broadcast is not None and self._server is not None:
            self._broadcast.end()
            self._server.should_exit = True
        if self._connections is not None and self._loop is not None:
            self._loop.call_later(STOP_S, self._connections.cut_all)


class _Connections:
    """Bounds connections, in number and in silence, and can cut one off with what waits to be sent on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: dict[Any, asyncio.Transport] = {}
        self._silent: dict[Any, asyncio.TimerHandle] = {}

    def made(self, client: object, transport: asyncio.Transport) -> None:
        self._open[client] = transport
        if len(self._open) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._silent[client] = self._loop.call_later(SPEAK_S, transport.abort)

    def lost(self, client: object) -> None:
        self._open.pop(client, None)
        self.heard(client)

    def heard(self, client: object) -> None:
        timer = self._silent.pop(client, None)
        if timer is not None:
            timer.cancel()

    def cut(self, client: object) -> None:
        if client in self._open:
            self._open[client].abort()

    def cut_all(self) -> None:
        for transport in list(self._open.values()):
            transport.abort()

    def heard_by(self, app: PreviewApp) -> Any:  # noqa: ANN401 - ASGI's types are loose
        """The application, on requests that are noted."""

        async def noted(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - the same
            self.heard(scope["client"])
            await app(scope, receive, send)

        return noted

    def protocol(self) -> Any:  # noqa: ANN401 - a class of uvicorn's
        """The HTTP of uvicorn, which tells of its connections."""
        from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: PLC0415 - an extra

        connections = self

        class Bounded(H11Protocol):
            def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's own types differ
                super().connection_made(transport)
                connections.made(self.client, transport)

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                connections.lost(self.client)

        return Bounded


def _reason(error: OSError) -> str:
    """Why nobody can listen there, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; choose another, or 0 for any that is free"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "permission denied; choose a port from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; expected 127.0.0.1, 0.0.0.0 or an address of this machine"
    if isinstance(error, socket.gaierror):
        return f"the host is not known ({error.strerror}); expected 127.0.0.1, 0.0.0.0 or an address of this machine"
    return f"nobody can listen there ({error.strerror}); choose another host or port"
