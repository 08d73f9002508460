"""Which file it is, by all that is in it; of gigabytes the hash is kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import GmosError
from .atomic_file import replaced_at_end
from .regular_file import open_regular, open_unbuffered
from .typed_json import read_json, typed
from .user_folders import user_cache

HASH_CHUNK_BYTES = 8 << 20

SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.\w+)")
"""How parts of one checkpoint are named, as `model-00001-of-00003.safetensors`."""

INDEX_ENDING = ".index.json"
"""Of the file that says which tensor is in which shard."""

END_BYTES = 1 << 20
"""Bytes hashed at each end of the file; trained weights differ there."""

Hashed = Callable[[Path], str]
"""The SHA-256 of a file in hexadecimal."""

KEPT_FROM_BYTES = 256 << 20
"""From this size on, about a quarter of a second, a hash is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShardIndex:
    weight_map: Mapping[str, str]


def checkpoint_identity(path: Path, *, hashed: Hashed | None = None) -> str:
    """Name, size and SHA-256 of a file, as one string; several of them for shards.

    Args:
        path: one of its files, or their index.
        hashed: what gives a file's; None is `kept_sha256`.

    Raises:
        GmosError: the file cannot be read.
    """

    def told(shard: Path) -> str:
        # First: it says in one line that a file cannot be read.
        digest = (hashed or kept_sha256)(shard)
        return f"{shard.name} {shard.stat().st_size} bytes, sha256 {digest}"

    return "; ".join(map(told, checkpoint_shards(path)))


def _identity(path: Path) -> str:
    """Of its length and both ends."""
    try:
        with open_regular(path) as file:
            digest = hashlib.sha256(file.read(END_BYTES))
            size = file.seek(0, 2)
            file.seek(max(0, size - END_BYTES))
            digest.update(file.read(END_BYTES))
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); expected a checkpoint file") from error
    return f"{path.name} {size} bytes, ends sha256 {digest.hexdigest()[:16]}"


def checkpoint_shards(path: Path) -> tuple[Path, ...]:
    """All files of the checkpoint that one of its files, or their index, stands for; mostly itself alone.

    Raises:
        GmosError: a shard is missing, or the index cannot be read.
    """
    if path.name.endswith(INDEX_ENDING):
        try:
            found = read_json(path, "download it again")
        except OSError as error:
            raise GmosError(
                f"checkpoint {path} does not exist: give the path of the downloaded file"
            ) from error
        index = typed(found, _ShardIndex, where=path.name, advice="download it again")
        names = sorted(set(index.weight_map.values()))
    elif (part := SHARD.fullmatch(path.name)) is not None:
        count = int(part["count"])
        names = [f"{part['name']}-{i:05d}-of-{count:05d}{part['ending']}" for i in range(1, count + 1)]
    else:
        return (path,)
    for name in names:
        if Path(name).name != name or not (path.parent / name).is_file():
            raise GmosError(
                f"{path.name} stands for {len(names)} shards, and {path.parent / name} is missing: download all "
                "of them into one folder"
            )
    return tuple(path.parent / name for name in names)


def checkpoint_sha256(path: Path, *, hashed: Hashed | None = None) -> str:
    """The SHA-256 of a checkpoint's file; of several that over theirs.

    Args:
        path: one of its files, or their index.
        hashed: what gives a file's; None reads the file.

    Raises:
        GmosError: one is missing or cannot be read.
    """
    digests = [(hashed or file_sha256)(shard) for shard in checkpoint_shards(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal.

    Raises:
        GmosError: it cannot be read.
    """
    digest, buffer = hashlib.sha256(), bytearray(HASH_CHUNK_BYTES)
    view = memoryview(buffer)
    try:
        with open_unbuffered(path) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); expected a readable file") from error
    return digest.hexdigest()


def kept_sha256(path: Path) -> str:
    """The SHA-256 of a file, worked out once: that of a large one is kept in the cache folder.

    It is found again by the file's place, time, length and both ends. For what a report says, not for what is trusted.

    Raises:
        GmosError: the file cannot be read.
    """
    identity, state = _identity(path), path.stat()
    if state.st_size < KEPT_FROM_BYTES:
        return file_sha256(path)
    key = hashlib.sha256(f"{path.resolve()} {state.st_mtime_ns} {identity}".encode("utf-8", "replace"))
    cache = user_cache()
    if cache is None:
        return file_sha256(path)
    kept = cache / "hashes" / key.hexdigest()
    with suppress(OSError, ValueError):
        found = kept.read_text(encoding="ascii")
        if re.fullmatch("[0-9a-f]{64}", found):
            return found
    digest = file_sha256(path)
    # A folder that cannot be written costs the same seconds again, and nothing else.
    with suppress(OSError, GmosError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replaced_at_end(kept) as temporary:
            temporary.write_text(digest, encoding="ascii")
    return digest
