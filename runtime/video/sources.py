"""What can be given as an input: one registry of kinds of sources, and what each must be able to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Protocol

from ...errors import GmosError
from .addresses import scheme_of, shown_address
from .containers import check_whole
from .frame_directory import check_frames, list_frames, read_frames
from .reader import VideoReader
from .sequence import DEFAULT_OUTPUT_FPS, SequenceInput, even_sequence, resolve_stride
from .sound import open_sound
from .stream_facts import BT2020_CONSTANT, MATRICES, StreamFacts, rate_note

USUAL_TIME_BASE_S = Fraction(1, 90_000)
"""Of files that state none."""

RATE_PACKETS = 250
"""Coded frames whose times tell the usual interval."""


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

    def sequence_name(self, given: str) -> str:
        """The name of an input's results; any text, checked by the caller."""

    def resolve(self, given: str, *, name: str, fps: float | None, stride: int | None) -> SequenceInput:
        """Check an input before any other work.

        Raises:
            OSError: it cannot be read.
            GmosError: it cannot be used.
        """


class DirectorySource:
    """Directories of JPEG or PNG frames."""

    kind = "directory"
    article = "a directory"
    needs_rate = True

    def takes(self, given: str) -> bool:
        """See `Source`."""
        return Path(given).is_dir()

    def sequence_name(self, given: str) -> str:
        """The directory's real name, `.` included."""
        path = Path(given)
        return path.resolve().name if path.name in ("", "..") else path.name

    def resolve(self, given: str, *, name: str, fps: float | None, stride: int | None) -> SequenceInput:
        """See `Source`; reads the headers of all frames."""
        path = Path(given)
        frame_paths = list_frames(path)
        video_hw, notes = check_frames(frame_paths)
        return even_sequence(
            partial(read_frames, frame_paths, video_hw),
            fps=fps,
            stride=stride,
            name=name,
            path=path,
            kind=self.kind,
            video_hw=video_hw,
            frame_count_estimate=len(frame_paths),
            frame_paths=frame_paths,
            notes=notes,
        )


class FileSource:
    """Video files of every container and codec that PyAV decodes."""

    kind = "video"
    article = "a video"
    needs_rate = False

    def takes(self, given: str) -> bool:
        """See `Source`."""
        return Path(given).is_file()

    def sequence_name(self, given: str) -> str:
        """The file name without its ending."""
        return Path(given).stem

    def resolve(self, given: str, *, name: str, fps: float | None, stride: int | None) -> SequenceInput:
        """See `Source`; reads the whole file and decodes the first frame."""
        path = Path(given)
        check_whole(path)
        with VideoReader(path) as reader:
            stream = reader.stream
            own_fps, estimate = stream.average_rate or None, stream.frames or None
            time_base_s = stream.time_base or USUAL_TIME_BASE_S
            height, width = reader.first_frame().rgb.shape[:2]
            pixel_aspect = reader.pixel_aspect
            facts = reader.facts()
            start_s = reader.start_s
        with VideoReader(path) as reader:
            times = reader.scan(RATE_PACKETS)
        if own_fps is None and fps is None and stride is None:
            raise GmosError(
                f"{path} states no frame rate; expected --fps (of the original video) or --stride"
            )
        return SequenceInput(
            name=name,
            path=path,
            kind=self.kind,
            open=partial(VideoReader, path),
            video_hw=(height, width),
            stride=resolve_stride(fps, stride, own_fps),
            output_fps=float(own_fps or fps or DEFAULT_OUTPUT_FPS),
            time_base_s=time_base_s,
            frame_count_estimate=estimate,
            pixel_aspect=pixel_aspect,
            notes=tuple(_notes(path, facts, own_fps, times, fps=fps, stride=stride)),
            stream=facts,
            sound=partial(open_sound, path, start_s) if facts.sound else None,
        )


def _notes(
    path: Path,
    facts: StreamFacts,
    own_fps: Fraction | None,
    times: Sequence[Fraction],
    *,
    fps: float | None,
    stride: int | None,
) -> Iterator[str]:
    if own_fps is None and fps is None:
        yield f"{path} states no frame rate: overlays play at {DEFAULT_OUTPUT_FPS:g} frames per second"
    if facts.video_streams > 1:
        yield f"{path} has {facts.video_streams} video streams; the first one (stream {facts.stream}) is taken"
    if facts.matrix == MATRICES[BT2020_CONSTANT]:
        yield f"{path} has BT.2020 colours of constant luminance; they are converted as if it were not constant"
    note = rate_note(own_fps, times) if fps is None and stride is None else None
    if note is not None:
        yield f"{path}: {note}"


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
    if not exists and scheme_of(given) is not None:
        raise GmosError(
            f"{shown_address(given)} is an address, and only files on this machine are read here; download a file "
            "first, for instance with curl -O or yt-dlp; a stream goes to gmos-run or Model.stream()"
        )
    if not exists:
        raise GmosError(f"{path} does not exist; expected a video file or a directory of frames")
    raise GmosError(f"{path} is neither a file nor a directory; expected a video file")


def unreadable(given: str, error: OSError) -> GmosError:
    """The error for an input that the system does not let us read."""
    return GmosError(f"{given} cannot be read: {error.strerror}; expected a readable input")
