"""A key of this user, outside of every bundle: its seals tell what this machine has made from what others have."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from ...errors import GmosError
from ..files.atomic_file import replaced_at_end, writing
from ..files.typed_json import json_bytes
from ..files.user_folders import user_config

KEY_FILE, KEY_BYTES = "engine.key", 32

SEAL = "seal"
"""The field of a sealed JSON file that holds its seal."""

HOME = "set XDG_CONFIG_HOME to a folder of yours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A keyed hash (HMAC-SHA-256) in hexadecimal; `key` tells keys apart without giving one away."""

    key: str
    mac: str


def key_path() -> Path:
    """Where the key is, or will be.

    Raises:
        GmosError: this user has no home directory.
    """
    folder = user_config()
    if folder is None:
        raise GmosError(f"there is no home directory for the key that engines are sealed with; {HOME}")
    return folder / KEY_FILE


def require_key() -> bytes:
    """The key, made now if there is none.

    Raises:
        GmosError: it cannot be made or read, or others may know it.
    """
    found = _stored_key()
    if found is None:
        path = key_path()
        try:
            _make(path)
        except GmosError as error:
            raise GmosError(f"{error}; it is for the key that engines are sealed with: {HOME}") from error
        found = _stored_key()
    if found is None:
        raise GmosError(f"{key_path()}, the key that engines are sealed with, was removed; try again")
    return found


def sealed(purpose: str, content: bytes) -> Seal:
    """The seal of some content; one of another purpose is not valid for it.

    Raises:
        GmosError: as `require_key`.
    """
    return _seal(require_key(), purpose, content)


def seal_doubt(seal: Seal | None, purpose: str, content: bytes) -> str | None:
    """Why a seal does not show that this user's machine made some content, in words; None if it does.

    Raises:
        GmosError: this user's key cannot be read, or others may know it.
    """
    if seal is None:
        return "it has no seal of this user's"
    key = _stored_key()
    if key is None:
        return "it was sealed elsewhere, and this user has no key yet"
    own = _seal(key, purpose, content)
    if seal.key != own.key:
        return "it was sealed by another user or on another machine"
    return (
        None
        if hmac.compare_digest(seal.mac.encode(), own.mac.encode())
        else "it was changed after it was sealed"
    )


def sealed_json(value: object, purpose: str) -> bytes:
    """A value as a JSON file with a seal over all of it.

    Raises:
        GmosError: as `require_key`.
        TypeError: there is something in it that JSON cannot hold.
    """
    top = msgspec.json.decode(msgspec.json.encode(value))
    return json_bytes({**top, SEAL: asdict(sealed(purpose, _canonical(top)))})


def json_doubt(top: Mapping[str, Any], purpose: str) -> str | None:
    """`seal_doubt` of a JSON file that has been read; what it covers are its values, however they are written.

    Raises:
        GmosError: as `seal_doubt`.
    """
    try:
        seal = msgspec.convert(top.get(SEAL), Seal | None)
    except msgspec.ValidationError:
        return "its seal cannot be read"
    return seal_doubt(seal, purpose, _canonical(top))


def _canonical(top: Mapping[str, Any]) -> bytes:
    rest = {name: value for name, value in top.items() if name != SEAL}
    return msgspec.json.encode(rest, order="deterministic")


def _seal(key: bytes, purpose: str, content: bytes) -> Seal:
    def mac(use: str, data: bytes) -> str:
        return hmac.digest(key, f"gmos-deploy {use}\0".encode() + data, "sha256").hex()

    return Seal(key=mac("name of the key", b"")[:16], mac=mac(purpose, content))


def _stored_key() -> bytes | None:
    """The key as it is stored, None if there is none."""
    path = key_path()
    again = "remove it, and build engines again"
    # A link or a pipe is not what was written here.
    flags = (
        os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        number = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GmosError(
            f"{path}, this user's key, cannot be read ({error.strerror}); {again}, or {HOME}"
        ) from error
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise GmosError(f"{path}, this user's key, is not a file; {again}")
        if sys.platform != "win32":
            if found.st_uid != os.geteuid():
                raise GmosError(
                    f"{path} belongs to user {found.st_uid}, expected {os.geteuid()}, who runs this; give it to them, "
                    f"or {HOME}"
                )
            if found.st_mode & 0o077:
                raise GmosError(
                    f"{path}, this user's key, has mode {stat.S_IMODE(found.st_mode):o}, expected 600: others may know "
                    f"it; {again}"
                )
        key = os.read(number, KEY_BYTES + 1)
    finally:
        os.close(number)
    if len(key) != KEY_BYTES:
        raise GmosError(f"{path}, this user's key, is damaged; {again}")
    return key


def _make(path: Path) -> None:
    """Write a new key, unless another process is faster: its key is the one."""
    with writing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replaced_at_end(path, mode=0o600, keep=True) as temporary:
        temporary.write_bytes(secrets.token_bytes(KEY_BYTES))
