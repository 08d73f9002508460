"""Segments of a stream's results: folders that appear when they are whole, and go again where only some are kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import GmosError
from ..files.atomic_file import alive, replaced_at_end, writing
from ..files.typed_json import Whole, json_bytes, read_json, typed
from ..frame_result import FrameResult
from .segment_writers import SegmentWriter, tidy

logger = logging.getLogger(__name__)

LIVE_FOLDER = "live"
"""Folder of streams in the output place, beside those of videos."""
PREFIX = "live-"
"""How the names of work folders of streams begin."""
OPEN, OLD = "open", "old"
"""In a work folder: the segment that is written, and one that is on its way out."""
SEGMENT, SESSION = "segment.json", "session.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """`segment.json`: whose the segment is, and which answers are in it.

    Frames count from 0 in the source, times are the source's in seconds. `reset_before`: a new sequence begins with
    it. Where it is not `whole` its run was cut off: `last_frame` and `last_time_s` are not known then, and its overlay
    is lost.
    """

    stream: str
    run: str
    number: Whole
    first_frame: Whole
    first_time_s: float
    reset_before: bool = False
    last_frame: Whole | None = None
    last_time_s: float | None = None
    answers: Whole = 0
    whole: bool = False

    def place(self, save_dir: Path) -> Path:
        """Where the segment goes."""
        return save_dir / LIVE_FOLDER / self.stream / self.run / f"{self.number:06d}"

    def write(self, folder: Path) -> None:
        """Put it into the segment's folder."""
        replace_json(folder / SEGMENT, self)


class OpenSegment:
    """The segment that is written now, in a private folder."""

    def __init__(
        self, work: Path, record: SegmentRecord, writers: Callable[[Path], Sequence[SegmentWriter]]
    ) -> None:
        """Begin one.

        Args:
            work: of this run alone, on the disk of the results; `session.json` is there.
            record: of its first frame.
            writers: make what writes into its folder.

        Raises:
            GmosError: it cannot be written.
        """
        self.folder = work / OPEN
        self.record = record
        self.torn = False
        """An answer is in some of the files and not in others."""
        with writing(self.folder):
            # What could not be put into place is lost with its run.
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            record.write(self.folder)
        self._open: list[tuple[SegmentWriter, ExitStack]] = []
        try:
            for writer in writers(self.folder):
                stack = ExitStack()
                stack.enter_context(writer)
                self._open.append((writer, stack))
        except BaseException:
            self.abandon()
            raise

    def write(self, answer: FrameResult) -> None:
        """Add an answer to every file.

        Raises:
            GmosError: it cannot be written.
        """
        self.torn = True
        for writer, _ in self._open:
            writer.write(answer)
        self.torn = False
        self.record = replace(
            self.record,
            last_frame=answer.index,
            last_time_s=answer.time_s,
            answers=self.record.answers + 1,
        )

    def close(self, save_dir: Path) -> Path:
        """Finish the files and put the segment into its place, which is returned.

        Raises:
            GmosError: it cannot be written.
        """
        try:
            with ExitStack() as closing:
                for _, stack in self._open:
                    closing.push(stack)
            with writing(self.folder):
                replace(self.record, whole=True).write(self.folder)
        except BaseException:
            self.abandon()
            raise
        return _place(self.folder, self.record, save_dir)

    def abandon(self) -> None:
        """Close the files of a segment that could not be written; what is whole in them waits to be settled."""
        failed = GmosError("the segment could not be written")
        for _, stack in self._open:
            with suppress(OSError, GmosError):
                stack.__exit__(GmosError, failed, None)
        self._open.clear()


def settle(content: Path, save_dir: Path) -> None:
    """Put what is whole of a run's open segment into its place: of one that was killed, or whose disk was full.

    Raises:
        GmosError: its place cannot be written.
    """
    folder = content / OPEN
    try:
        found = read_json(folder / SEGMENT, "remove it")
        record = typed(found, SegmentRecord, where=str(folder / SEGMENT), advice="remove it")
    except (OSError, GmosError):
        return
    place = record.place(save_dir)
    named = all(Path(name).name == name and name.strip(".") for name in (record.stream, record.run))
    if not named or place.exists():
        return
    with writing(place):
        if not record.whole:
            record = replace(record, answers=tidy(folder))
            if not record.answers:
                return
            record.write(folder)
        _place(folder, record, save_dir)
    logger.info("%s: kept of a segment that was cut off", place)


def prune(stream: Path, current: str, keep: int, work: Path) -> None:
    """Remove the oldest segments of a stream beyond `keep`, of runs that were made to be bounded.

    Runs that were told to keep everything are left alone, and so are others that go on. The current run counts as the
    newest, whatever the clock said when others began. A segment disappears at once, and a run's folder with its last
    one.

    Raises:
        GmosError: a segment cannot be removed.
    """
    found = []
    others = {_session(content).run for content in alive(work.parent.parent, PREFIX)}
    for run in stream.iterdir():
        if run.name == current or (_session(run).keep_segments is not None and run.name not in others):
            numbers = [one.name for one in run.iterdir() if one.name.isdecimal() and one.is_dir()]
            found += [((run.name == current, run.name, int(number)), run / number) for number in numbers]
    for _, segment in sorted(found)[:-keep]:
        _remove(segment, work)
        run = segment.parent
        # What somebody else has put there stays.
        if run.name != current and {one.name for one in run.iterdir()} == {SESSION}:
            _remove(run, work)


def _remove(folder: Path, work: Path) -> None:
    """Have a folder disappear at once."""
    with writing(folder):
        shutil.rmtree(work / OLD, ignore_errors=True)
        folder.rename(work / OLD)
        shutil.rmtree(work / OLD)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """What of a `session.json` decides whether its segments may go."""

    run: str = ""
    keep_segments: int | None = None


def _session(folder: Path) -> _Session:
    """Of a run's folder, or of what is in its work folder; nothing is known of one that cannot be read."""
    try:
        return typed(read_json(folder / SESSION, ""), _Session, where="", advice="")
    except (OSError, GmosError):
        return _Session()


def replace_json(path: Path, value: object) -> None:
    """Write a JSON file, whole or not at all, where no other process writes.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(json_bytes(value))
    temporary.replace(path)


def _place(folder: Path, record: SegmentRecord, save_dir: Path) -> Path:
    """Move a segment to where it belongs. Its run's folder comes with the first one, and never without its record."""
    place = record.place(save_dir)
    session = place.parent / SESSION
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        if not session.exists():
            with replaced_at_end(session) as temporary:
                temporary.write_bytes((folder.parent / SESSION).read_bytes())
        folder.rename(place)
    return place
