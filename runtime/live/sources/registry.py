"""The kinds of live sources: one registry, and which of them an input is of."""

from __future__ import annotations

import stat
from pathlib import Path

from ....errors import GmosError
from ...video.addresses import scheme_of
from .camera import CameraSource
from .gstreamer import GStreamerSource
from .network import NetworkSource
from .pipe import GIVEN as STDIN
from .pipe import PipeSource
from .played import PlayedSource
from .source import Asked, LiveInput, LiveSource

LIVE_SOURCES: list[LiveSource] = [PipeSource(), GStreamerSource(), CameraSource(), NetworkSource()]
"""All kinds, in the order in which they are asked; files that are played come after them."""

FILES: LiveSource = PlayedSource()


def register_live_source(source: LiveSource) -> None:
    """Add a kind of live source; it is asked before those that are there.

    Raises:
        GmosError: there is a kind of that name.
    """
    if any(known.kind == source.kind for known in (*LIVE_SOURCES, FILES)):
        raise GmosError(f"a live source named {source.kind!r} is registered already; choose another kind")
    LIVE_SOURCES.insert(0, source)


def live_source_of(given: str) -> LiveSource | None:
    """The kind of stream that an input is; None of what has an end, or is nothing that is known.

    An existing file or directory wins over everything that its name could mean.
    """
    if given != STDIN and _is_file(given):
        return None
    return next((source for source in LIVE_SOURCES if source.takes(given)), None)


def resolve_live(given: str, asked: Asked) -> LiveInput:
    """Check a live source, or a file that is played as one.

    Raises:
        GmosError: it cannot be used.
    """
    return (live_source_of(given) or FILES).resolve(given, asked)


def _is_file(given: str) -> bool:
    if scheme_of(given) is not None:
        return False
    try:
        mode = Path(given).stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
