"""Addresses that are given as inputs: which ones there are, and how they are shown without what is secret in them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")

UNREADABLE = "(an address that cannot be read)"


def scheme_of(given: str) -> str | None:
    """The scheme of an address in small letters; None of what is no address."""
    found = ADDRESS.match(given)
    return None if found is None else found["scheme"].lower()


def shown_address(given: str) -> str:
    """An address for messages, logs and results: no user, no password, and nothing of its query.

    Cameras take passwords in the part before the @ and tokens in the query alike. What is no address stays as it is.
    """
    scheme = scheme_of(given)
    if scheme is None:
        return given
    try:
        parts = urlsplit(given)
    except ValueError:
        return f"{scheme}://{UNREADABLE}"
    # A password with one of /?# in it ends the host for whoever parses the address, and the rest is not to be shown.
    if "@" in given and "@" not in parts.netloc and ":" in parts.netloc:
        return f"{scheme}://{UNREADABLE}"
    return f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + ("?…" if parts.query else "")
