"""What can be given as an input: one registry of kinds of sources, and what each must be able to do."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ...errors import GmosError
from .directory_source import DirectorySource
from .file_source import FileSource
from .sequence import SequenceInput


class Source(Protocol):
    """A kind of input that `gmos-run` takes by a path or a name.

    `kind` names it; inputs of one run are of one kind. `needs_rate` says that its inputs never state a frame
    rate, so that --fps or --stride must be given. `article` puts it into a sentence: "a video".
    """

    kind: str
    article: str
    needs_rate: bool

    def takes(self, given: str) -> bool:
        """Whether an input, as it was given, is of this kind; cheap, and sure: no other kind is asked then.

        Raises:
            OSError: it cannot be told, because the input cannot be read.
            GmosError: it is of this kind and cannot be used.
        """
        ...

    def sequence_name(self, given: str) -> str:
        """The name of an input's results; any text, checked by the caller."""
        ...

    def resolve(self, given: str, *, name: str, fps: float | None, stride: int | None) -> SequenceInput:
        """Check an input before any other work.

        Raises:
            OSError: it cannot be read.
            GmosError: it cannot be used.
        """
        ...


SOURCES: list[Source] = [DirectorySource(), FileSource()]
"""All kinds, in the order in which they are asked."""


def register_source(source: Source) -> None:
    """Add a kind of input; it is asked before those that are there.

    Raises:
        GmosError: there is a kind of that name.
    """
    if any(known.kind == source.kind for known in SOURCES):
        raise GmosError(f"a source named {source.kind!r} is registered already; choose another kind")
    SOURCES.insert(0, source)


def source_of(given: str) -> Source:
    """The source of an input.

    Raises:
        GmosError: it does not exist, cannot be read, or no source takes it.
    """
    path = Path(given)
    try:
        for source in SOURCES:
            if source.takes(given):
                return source
        exists = path.exists()
    except OSError as error:
        raise unreadable(given, error) from error
    if not exists:
        raise GmosError(f"{path} does not exist; expected an .mp4 file or a directory of frames")
    raise GmosError(f"{path} is neither a file nor a directory; expected an .mp4 file")


def unreadable(given: str, error: OSError) -> GmosError:
    """The error for an input that the system does not let us read."""
    return GmosError(f"{given} cannot be read: {error.strerror}; expected a readable input")
