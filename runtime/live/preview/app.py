"""The preview as an ASGI application: a page, the stream of messages behind it, and the door in front of both."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from .broadcast import Broadcast
from .guard import Guard
from .page import page_of, token_page

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MOST_VIEWERS = 16
SEND_S = 20.0
"""A viewer that takes nothing for so long is cut off."""
BODY_BYTES, BODY_S = 4096, 5.0
"""Of the form with the token: its size, and the time in which it has to come."""
WRONG_TOKEN_S = 0.5
"""Before a wrong token is answered."""

HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class PreviewApp:
    """An ASGI application. Three answers: the page, its messages, and to whoever shows the token a cookie."""

    def __init__(self, *, name: str, guard: Guard, broadcast: Broadcast, cut: Callable[[Any], None]) -> None:
        """Set it up.

        Args:
            name: of the stream, for the page.
            guard: decides who sees anything.
            broadcast: has the messages.
            cut: ends a client's connection at once, whatever waits to be sent.
        """
        self._name = name
        self._guard = guard
        self._broadcast = broadcast
        self._cut = cut

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method, path = scope["method"], scope["path"]
        if not self._guard.answers_to(headers.get("host", "")):
            return await _text(send, 421, "This preview answers to this machine's names and addresses only.")
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.get("token", [None])[-1]
        if method == "POST" and path == "/":
            given = parse_qs((await _body(receive)).decode("utf-8", "replace")).get("token", [""])[-1]
        elif method != "GET":
            return await _text(send, 405, "Only GET is answered here.")
        if path not in {"/", "/events"}:
            return await _text(send, 404, "There is nothing here; the page is at /.")
        if self._guard.knows(given) and path == "/":
            # Without the token, which would stay in the browser's address and history.
            return await _answer(send, 303, b"", {"location": "/", "set-cookie": self._guard.set_cookie()})
        if not self._guard.admits(headers) and not self._guard.knows(given):
            if given is not None:
                await asyncio.sleep(WRONG_TOKEN_S)
            if path == "/":
                return await _html(send, 401, token_page(self._name, wrong=given is not None))
            return await _text(send, 401, "This preview needs its token.")
        if path == "/":
            return await _html(send, 200, page_of(self._name))
        # Other sites' pages cannot read the messages, but would take viewers' places.
        if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            return await _text(send, 403, "Other sites' pages cannot look on.")
        if self._broadcast.viewers >= MOST_VIEWERS:
            return await _text(send, 503, f"There are {MOST_VIEWERS} viewers, and no room for more.")
        return await self._events(scope["client"], receive, send)

    async def _events(self, client: object, receive: Receive, send: Send) -> None:
        """Send messages until the viewer or the run has gone; what a slow one misses is left out."""
        broadcast = self._broadcast
        gone = asyncio.ensure_future(_disconnected(receive))
        pictures = 0
        try:
            with broadcast.viewer() as woken:
                await _start(send, 200, {"content-type": "text/event-stream", **HEADERS})
                while not gone.done() and not broadcast.ended:
                    chunk = broadcast.numbers
                    if pictures != broadcast.pictures:
                        pictures, chunk = broadcast.pictures, broadcast.picture
                    if chunk:
                        await asyncio.wait_for(_chunk(send, chunk), SEND_S)
                    await _either(woken, gone)
                await asyncio.wait_for(_chunk(send, b"event: end\ndata: {}\n\n"), SEND_S)
                await send({"type": "http.response.body", "body": b""})
        except asyncio.TimeoutError:
            self._cut(client)
        finally:
            gone.cancel()


async def _either(woken: asyncio.Event, gone: asyncio.Future[None]) -> None:
    """Wait for a message, or for the viewer's end."""
    waiting = asyncio.ensure_future(woken.wait())
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    woken.clear()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> bytes:
    """What a form sends; nothing of one that is too long or takes too long."""
    body = b""

    async def read() -> None:
        nonlocal body
        more = True
        while more and len(body) <= BODY_BYTES:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)

    try:
        await asyncio.wait_for(read(), BODY_S)
    except asyncio.TimeoutError:
        return b""
    return body if len(body) <= BODY_BYTES else b""


async def _html(send: Send, status: int, page: Callable[[str], str]) -> None:
    """A page whose style and script alone may run: they carry a number used once."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
        f"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": policy}
    await _answer(send, status, page(nonce).encode(), headers)


async def _text(send: Send, status: int, text: str) -> None:
    await _answer(send, status, f"{text}\n".encode(), {"content-type": "text/plain; charset=utf-8"})


async def _answer(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    await _start(send, status, {"content-length": str(len(body)), **HEADERS, **headers})
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


async def _chunk(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})
