"""Signed bundles: one file has the length and SHA-256 of every other one, and an Ed25519 signature over these."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from ...errors import GmosError
from ..files.atomic_file import replaced_at_end
from ..files.checkpoint_identity import file_sha256
from ..files.regular_file import read_bounded
from ..files.typed_json import MOST_BYTES, json_bytes, parse_json, typed
from .engine_files import made_here
from .files import OURS, FileRecord, is_plain

SIGNATURE = "bundle.signature.json"
FORMAT = 1

PURPOSE = b"gmos-deploy bundle, format 1\n"
"""Signed before the text, so that a signature of something else is none of a bundle."""

ENGINES = "engines/"
"""Where a machine that got a bundle adds files of its own, which have the seal of its user's key."""

UNREAD = re.compile(rf"({ENGINES}[^/]+/)?\.[^/]+\.gmos-tmp|{ENGINES}[^/]+/[^/]+\.failed/.+")
"""What commands have open or leave, and none of them reads: files that are being written, this signature's too, and
what a wrong engine got and answered."""

MOST_KEY_BYTES = 1 << 16

INSTALL = "install it with pip install cryptography"

AGAIN = "get the bundle again from whoever signed it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom a user trusts with what runs.

    Attributes:
        keys: files of public keys. With some, a bundle must be signed with one of them, and be as it was signed.
        engines: run engines whoever built them. They are native code: it can do whatever this user can.
    """

    keys: tuple[Path, ...] = ()
    engines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signature:
    """`key` is the public key and `signature` that of `signed`, in hexadecimal; `signed` is JSON, `_Signed`."""

    format: int
    key: str
    signature: str
    signed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signed:
    files: Mapping[str, FileRecord]


_verified: dict[tuple[Any, ...], Mapping[str, FileRecord]] = {}
"""What this process has verified, by the state of all its files: commands open a bundle several times."""


def write_key_pair(path: Path) -> Path:
    """Write a new private key, which only this user can read, and its public key beside it; returns that one's path.

    Of a private key whose public one is missing, as after a kill, that is written.

    Raises:
        GmosError: the public key is there already, the private one is none, or one of them cannot be written.
    """
    ed25519, serialization = _cryptography()
    public = path.with_name(f"{path.name}.pub")
    if public.exists() or public.is_symlink():
        raise GmosError(f"{public} exists; a key that was used must not be lost: give another name")
    pem = serialization.Encoding.PEM
    if not (path.exists() or path.is_symlink()):
        new = ed25519.Ed25519PrivateKey.generate()
        with replaced_at_end(path, mode=0o600, keep=True) as temporary:
            temporary.write_bytes(
                new.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            )
    try:
        shown = _private_key(path).public_key()
    except GmosError as error:
        raise GmosError(f"{path} exists and is no key of gmos-export keygen; give another name") from error
    with replaced_at_end(public, mode=0o644, keep=True) as temporary:
        temporary.write_bytes(shown.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return public


def sign_bundle(
    root: Path, key_file: Path, listed: Mapping[str, str] | None = None
) -> tuple[Path, int, tuple[str, ...]]:
    """Sign all files of a bundle as they are now.

    Args:
        root: its directory.
        key_file: a private key of `write_key_pair`.
        listed: the SHA-256 that `bundle.json` has, by name: what has changed since must not be vouched for.

    Returns:
        Where the signature is, the number of files, and the names of those with engines that this user's machine did
        not make.

    Raises:
        GmosError: the key cannot be used, a file is none, has changed or is not the bundle's, or the signature cannot
            be written.
    """
    key, (_, serialization) = _private_key(key_file), _cryptography()
    files = {}
    for name, path in _files(root):
        if name.startswith(OURS):
            raise GmosError(
                f"{root / PurePosixPath(name).parts[0]} is what an export or a calibration works with, and no part of "
                "the bundle; let it end, or move that elsewhere, and sign again"
            )
        if path.is_symlink() or not path.is_file():
            raise GmosError(
                f"{path} is not a file; copy the bundle with cp -rL, or remove it, and sign again"
            )
        files[name] = FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
        if (listed or {}).get(name, files[name].sha256) != files[name].sha256:
            raise GmosError(f"{path} has changed since the export; export the bundle again, and sign that")
    text = msgspec.json.encode(_Signed(files=files))
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    signature = _Signature(
        format=FORMAT,
        key=key.public_key().public_bytes(*raw).hex(),
        signature=key.sign(PURPOSE + text).hex(),
        signed=text.decode(),
    )
    with replaced_at_end(root / SIGNATURE) as temporary:
        temporary.write_bytes(json_bytes(asdict(signature)))
    foreign = tuple(name for name in files if name.startswith(ENGINES) and not _is_own(root, name))
    return root / SIGNATURE, len(files), foreign


def verified_files(root: Path, keys: tuple[Path, ...]) -> Mapping[str, FileRecord]:
    """The files of a bundle by name, once one of the keys vouches for them and they are as they were signed.

    Raises:
        GmosError: the bundle is not signed with any of the keys, or a file is missing, was changed or added since.
    """
    public = tuple(_public_key(path) for path in keys)
    path = root / SIGNATURE
    try:
        text = read_bounded(path, MOST_BYTES)
    except OSError as error:
        raise GmosError(
            f"{root} is not signed ({SIGNATURE} cannot be read: {error.strerror}), and --trust asks for a signature: "
            "have it signed with gmos-export sign, or leave --trust out"
        ) from error
    place = (root.resolve(), public, text, _state(root))
    if place not in _verified:
        files = _signed_files(path, text, dict(zip(public, keys, strict=True)))
        _compare(root, files)
        _verified[place] = files
    return _verified[place]


def _signed_files(path: Path, text: bytes, keys: Mapping[bytes, Path]) -> Mapping[str, FileRecord]:
    found = typed(parse_json(text, path, AGAIN), _Signature, where=path.name, advice=AGAIN)
    if found.format != FORMAT:
        raise GmosError(
            f"{path} has format {found.format}, this gmos-deploy reads format {FORMAT}; upgrade it"
        )
    trusted = ", ".join(map(str, keys.values()))
    key = next((key for key in keys if key.hex() == found.key), None)
    if key is None:
        raise GmosError(
            f"{path.parent} is signed with the key {found.key[:16]}…, which is not that of --trust {trusted}; "
            "do not trust it, or name the key of whoever signed it"
        )
    ed25519, _ = _cryptography()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only signed bundles need it

    try:
        ed25519.Ed25519PublicKey.from_public_bytes(key).verify(
            bytes.fromhex(found.signature), PURPOSE + found.signed.encode()
        )
    except (InvalidSignature, ValueError) as error:
        raise GmosError(f"{path} is not what --trust {trusted} signed; do not trust it: {AGAIN}") from error
    signed = parse_json(found.signed.encode(), path, AGAIN)
    return typed(signed, _Signed, where=path.name, advice=AGAIN).files


def _compare(root: Path, files: Mapping[str, FileRecord]) -> None:
    """Hold a directory against what was signed; what this machine added to engines is its own."""
    there = dict(_files(root))
    doubts = {name: "was added" for name in there if name not in files}
    for name, record in files.items():
        if name not in there:
            doubts[name] = "is missing"
        elif not (is_plain(name) and there[name].is_file() and _is_as_signed(there[name], record)):
            doubts[name] = "was changed"
    # The seals of this machine's own files are checked again where they are read.
    found = [f"{name} {doubt}" for name, doubt in doubts.items() if not _is_own(root, name)]
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise GmosError(f"{root} is not as it was signed: {found[0]}{more}; do not trust it: {AGAIN}")


def _is_as_signed(path: Path, record: FileRecord) -> bool:
    return path.stat().st_size == record.bytes and file_sha256(path) == record.sha256


def _state(root: Path) -> tuple[tuple[Any, ...], ...]:
    """What changes when a file does; what is read later is checked again where it is read."""
    found = [(name, path.lstat(), path.stat() if path.exists() else None) for name, path in _files(root)]
    return tuple(
        (name, *(one and (one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in stats))
        for name, *stats in found
    )


def _is_own(root: Path, name: str) -> bool:
    return name.startswith(ENGINES) and not (root / name).is_symlink() and made_here(root / name)


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """All that is in a bundle but its signature and `UNREAD`, by name; a link to a directory counts as a file."""
    for folder, folders, names in os.walk(root):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted((*names, *links)):
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if relative != SIGNATURE and not UNREAD.fullmatch(relative):
                yield relative, path


def _private_key(path: Path) -> Any:  # noqa: ANN401 - the library is imported where it is used
    ed25519, serialization = _cryptography()
    try:
        key = serialization.load_pem_private_key(_key_bytes(path), None)
    except (ValueError, TypeError) as error:
        raise GmosError(f"{path} is no private key ({error}); make one with gmos-export keygen") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise GmosError(f"{path} is no Ed25519 key; make one with gmos-export keygen")
    return key


def _public_key(path: Path) -> bytes:
    ed25519, serialization = _cryptography()
    text = _key_bytes(path)
    try:
        key = serialization.load_pem_public_key(text)
    except (ValueError, TypeError) as error:
        raise GmosError(
            f"--trust {path}: no public key ({error}); expected KEY.pub of gmos-export keygen"
        ) from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise GmosError(f"--trust {path}: no Ed25519 key; expected KEY.pub of gmos-export keygen")
    return bytes(key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))


def _key_bytes(path: Path) -> bytes:
    try:
        return read_bounded(path, MOST_KEY_BYTES)
    except OSError as error:
        raise GmosError(
            f"{path} cannot be read ({error.strerror}); expected a key of gmos-export keygen"
        ) from error


def _cryptography() -> tuple[Any, Any]:
    """The library's Ed25519 keys, and its forms of keys."""
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - only signed bundles need it
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - as above
    except ImportError as error:
        raise GmosError(f"signatures need the package cryptography ({error}); {INSTALL}") from error
    return ed25519, serialization
