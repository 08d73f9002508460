"""Who may look at the preview: its address, the names it answers to, and whether a token was shown."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from ....errors import GmosError

LOOPBACK = "127.0.0.1"

LEAST_TOKEN = 8
"""Characters of a token: wrong ones are answered slowly, so that this many cannot be guessed."""

ADDRESS = re.compile(r"(?:(?P<host>\[[0-9a-fA-F:.%\w]+\]|[^\s:/\[\]@]+):)?(?P<port>\d{1,5})")
HOST_HEADER = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::\d{1,5})?")


def preview_address(text: str) -> tuple[str, int]:
    """Host and port of `[HOST:]PORT`; the host is this machine's loopback where none is given.

    Raises:
        GmosError: it is something else.
    """
    found = ADDRESS.fullmatch(text.strip())
    if found is None or int(found["port"]) > 0xFFFF:
        raise GmosError(
            f"--preview {text}: expected [HOST:]PORT, as 8000, 127.0.0.1:8000 or [::1]:8000; 0 is any port that is free"
        )
    return (found["host"] or LOOPBACK).strip("[]"), int(found["port"])


def check_token(host: str, token: str | None) -> None:
    """Refuse to be seen from other machines without a token.

    Raises:
        GmosError: there is none for a host that others reach, or it is too short or not printable ASCII.
    """
    if token is None:
        if not is_loopback(host):
            raise GmosError(
                f"--preview {host}: everybody who reaches this host could look on; give a --preview_token that viewers "
                f"must know, or {LOOPBACK}"
            )
    elif len(token) < LEAST_TOKEN or not (token.isascii() and token.isprintable()):
        raise GmosError(f"--preview_token: expected {LEAST_TOKEN} or more printable ASCII characters")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Decides over requests. What a viewer keeps is a secret of this run, never the token itself.

    Browsers send a cookie to every port of a host, and a page of some other site may have its own name resolve to
    this address: so the cookie is worth nothing elsewhere, and names that are not this machine's are refused. An
    address of numbers cannot be another site's name.
    """

    def __init__(self, host: str, port: int, token: str | None) -> None:
        own = socket.gethostname().lower()
        self._names = {"localhost", host.lower(), own, f"{own}.local"}
        self._token = token
        self._secret = secrets.token_urlsafe(32)
        self.cookie_name = f"gmos_preview_{port}"

    def answers_to(self, host_header: str) -> bool:
        """Whether a request's `Host` is this machine."""
        found = HOST_HEADER.fullmatch(host_header)
        if found is None:
            return False
        name = found["name"].strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def knows(self, token: str | None) -> bool:
        """Whether it is the token, found out in a time that says nothing of it."""
        return self._token is not None and token is not None and _equal(token, self._token)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request may see anything: no token is asked for, or its cookie is of this run."""
        if self._token is None:
            return True
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie_name)
        except CookieError:
            return False
        return found is not None and _equal(found.value, self._secret)

    def set_cookie(self) -> str:
        """What a viewer who has shown the token gets: not for scripts, not for other sites, gone with the browser."""
        return f"{self.cookie_name}={self._secret}; Path=/; HttpOnly; SameSite=Lax"


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
