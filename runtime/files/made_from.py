"""What a result was made from, in the one shape in which results, records and --json tell it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .checkpoint_identity import Hashed, checkpoint_sha256, kept_sha256
from .typed_json import as_text

KEY = "made_from"
"""Of a result.json, a record, and the output of --json."""

UNKNOWN = "unknown"
"""The licence or source of weights of which nobody has stated one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOrigin:
    """A bundle; `sha256` is that of its `bundle.json`, which holds the hashes of all its files."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOrigin:
    """A checkpoint by its flag; `licence` of its weights is an SPDX id, `source` says where they are from."""

    flag: str
    name: str
    sha256: str
    licence: str = UNKNOWN
    source: str = UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOrigin:
    """A video; `sha256` is None for what is no file. `stride` in frames, `fps` of its overlays, None if not run here.

    `dataset` is the benchmark that it was run for, if any.
    """

    name: str
    sha256: str | None
    stride: int | None = None
    fps: float | None = None
    dataset: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFrom:
    """All that decides a result and is not ours."""

    bundles: tuple[BundleOrigin, ...] = ()
    checkpoints: tuple[CheckpointOrigin, ...] = ()
    clips: tuple[ClipOrigin, ...] = ()

    def __or__(self, other: MadeFrom) -> MadeFrom:
        """Of both, everything once, in its order."""
        return MadeFrom(
            bundles=tuple(dict.fromkeys(self.bundles + other.bundles)),
            checkpoints=tuple(dict.fromkeys(self.checkpoints + other.checkpoints)),
            clips=tuple(dict.fromkeys(self.clips + other.clips)),
        )


NOTHING = MadeFrom()
"""Of which nothing is known."""


def joined(parts: Iterable[MadeFrom]) -> MadeFrom:
    """Of all of them."""
    found = NOTHING
    for part in parts:
        found |= part
    return found


def of_checkpoint(
    flag: str, path: Path, *, licence: str, source: str, hashed: Hashed = kept_sha256
) -> MadeFrom:
    """A file of weights; its hash is worked out once.

    Raises:
        GmosError: it cannot be read.
    """
    origin = CheckpointOrigin(
        flag=flag,
        name=as_text(path.name),
        sha256=checkpoint_sha256(path, hashed=hashed),
        licence=licence,
        source=source,
    )
    return MadeFrom(checkpoints=(origin,))
