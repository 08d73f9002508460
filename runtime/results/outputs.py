"""Writes the results of one sequence, all of them or none, in a private place that never outlives its run for long."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import GmosError
from ..contract import Variant
from ..files.atomic_file import remove_stale_files, work_folder, writing
from ..files.made_from import NOTHING, MadeFrom
from ..files.typed_json import json_bytes, read_json, typed
from ..frame_result import FrameResult
from ..media import Media
from ..watch import Watch, doing
from .completion import (
    PRIVATE_FOLDER,
    CompletionRecord,
    Existing,
    ResultSet,
    as_json,
    read_record,
    should_skip,
    targets,
)

logger = logging.getLogger(__name__)

PREFIX = "work-"
"""How the names of work folders begin."""
OLD = "old"
"""In a work folder: results that made room."""
MOVES = "moves.json"
"""In a work folder whose results are complete, until they are in place: what a dead run's successor goes on from."""


class FinishedElsewhereError(GmosError):
    """Another process was faster with a sequence; its results are whole and stay."""


@contextmanager
def work_directory(
    save_dir: Path,
    private_folder: str,
    *,
    prefix: str = PREFIX,
    settle: Callable[[Path, Path], None] | None = None,
) -> Iterator[Path]:
    """Yield an empty directory inside `save_dir / private_folder`, removed at the end with all in it.

    It is on the disk of the results, so that they can be moved into place at once. Directories of that prefix that
    dead runs left are settled, by `finish_moves` if nothing else is given, and removed first. Parents made here are
    removed again where they stay empty.

    Raises:
        GmosError: `save_dir` cannot be made or written to.
    """
    private = save_dir / private_folder
    with writing(save_dir), ExitStack() as stack:
        made = [path for path in (private, save_dir, *save_dir.parents) if not path.exists()]
        stack.callback(_remove_empty, made)
        private.mkdir(parents=True, exist_ok=True)
        remove_stale_files(private)
        folder = work_folder(private, prefix, lambda content: (settle or finish_moves)(content, save_dir))
        work = stack.enter_context(folder)
        opened = stack.pop_all()
    with opened:
        yield work


def _remove_empty(folders: Sequence[Path]) -> None:
    for path in folders:
        with suppress(OSError):
            path.rmdir()


def check_save_dir(save_dir: Path) -> None:
    """Make sure, before any other work, that results can be written. Leaves nothing behind.

    Raises:
        GmosError: `save_dir` is a file, lies under one, or may not be written to.
    """
    with work_directory(save_dir, PRIVATE_FOLDER) as work, writing(save_dir):
        (work / "probe").write_bytes(b"probe")


def file_results(
    answers: Generator[FrameResult, None, None],
    results: ResultSet,
    media: Media,
    *,
    existing: Existing = "error",
    watch: Watch | None = None,
) -> list[Path]:
    """Write the answers of a run as they come and file them when the last one is there.

    Until then everything is in a private directory, which goes away if it ends any other way. If moving into place
    fails, what was there before is put back.

    Args:
        answers: of one video, with their frames where a format needs them; closed at the end.
        results: what to write and where.
        media: what is known of the video.
        existing: "error" refuses to replace results, "overwrite" replaces them, "resume" replaces unfinished ones.
        watch: hears of writing.

    Returns:
        What was written, by path.

    Raises:
        GmosError: as the run, the output place turned out to be unusable, or results have turned up in the meantime;
            nothing is filed then.
    """
    if should_skip(results, existing):
        raise RuntimeError(f"{results.sequence} is finished: ask should_skip() before writing it")
    media = replace(media, sequence=results.sequence, settings=as_json(results.settings))
    with work_directory(results.save_dir, PRIVATE_FOLDER) as work:
        # Told of an error, writers only close their files.
        with ExitStack() as stack, closing(answers):
            writers = [
                stack.enter_context(known.writer(work / "new" / place, result, media))
                for place, (known, result) in results.targets().items()
            ]
            frames = 0
            for answer in answers:
                with doing(watch, "write"):
                    for writer in writers:
                        writer.write(answer)
                frames += 1
            counts = [writer.frames_written for writer in writers]
            if any(count != frames for count in counts):
                raise RuntimeError(f"{counts} frames written, {frames} expected of each")
        if should_skip(results, existing):
            raise FinishedElsewhereError(
                f"{results.sequence} was finished by another run in the meantime; its results in "
                f"{results.save_dir} are kept"
            )
        with writing(results.save_dir), ExitStack() as undo:
            _replace(results, existing, frames, work, undo.callback)
            undo.pop_all()
    return results.paths()


def _replace(
    results: ResultSet, existing: Existing, frames: int, work: Path, undo: Callable[..., object]
) -> None:
    """Move everything into place, and last of all write the completion record."""
    try:
        previous = read_record(results)
    except GmosError:
        if existing != "overwrite":
            raise
        previous = None
    settings = as_json(results.settings)
    modes, dropped = results.modes, frozenset[str]()
    if previous is not None:
        if previous.complete and (previous.settings, previous.frames) == (settings, frames):
            modes |= previous.modes
        else:
            # Other modes of the same sequence, made in another way, would contradict these.
            dropped = previous.modes
    moves = _Moves(
        sequence=results.sequence,
        variant=results.variant,
        written=results.modes,
        dropped=dropped,
        record=CompletionRecord(
            modes=modes,
            frames=frames,
            settings=settings,
            complete=True,
            not_finite=dict(results.not_finite),
        ),
        made_from=results.made_from,
    )
    # From here to the end a run that is killed leaves what the next one finishes. Undone last: its results are whole.
    undo(_forget, work)
    (work / MOVES).with_suffix(".tmp").write_bytes(json_bytes(moves))
    (work / MOVES).with_suffix(".tmp").rename(work / MOVES)
    moves.move(results.save_dir, work, undo)
    (work / MOVES).unlink()


def _forget(work: Path) -> None:
    """Give the moves up, unless results from before could not be put back: the next run goes on with them then."""
    if not any(path.is_file() for path in (work / OLD).rglob("*")):
        (work / MOVES).unlink(missing_ok=True)


def finish_moves(work: Path, save_dir: Path) -> None:
    """Move what a dead run had completed into place, if it had.

    Raises:
        GmosError: its place cannot be written.
    """
    try:
        found = read_json(work / MOVES, "remove it")
        moves = typed(found, _Moves, where=MOVES, advice="remove it")
    except (OSError, GmosError):
        return
    if Path(moves.sequence).name != moves.sequence or not moves.sequence.strip("."):
        raise GmosError(f"{work / MOVES} names {moves.sequence!r}, which is no sequence; remove it")
    logger.info("%s: filing what a run had completed that was stopped", moves.sequence)
    with writing(save_dir):
        moves.move(save_dir, work, lambda *_, **__: None)
        (work / MOVES).unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moves:
    """What goes into place from a work folder: modes that are written, older ones that go, and the record of all."""

    sequence: str
    variant: Variant
    written: frozenset[str]
    dropped: frozenset[str]
    record: CompletionRecord
    made_from: MadeFrom = NOTHING

    def move(self, save_dir: Path, work: Path, undo: Callable[..., object]) -> None:
        """Do it, or what is left of it: what is not in `work / "new"` any more is in its place."""
        results = ResultSet(
            save_dir=save_dir,
            sequence=self.sequence,
            variant=self.variant,
            modes=self.written,
            settings=self.record.settings,
            made_from=self.made_from,
        )
        temporary, path = work / "record.json", results.record_path
        new = results.targets()
        replaced = new | targets(self.variant, self.dropped, self.sequence)

        def put_back(content: bytes | None) -> None:
            if content is None:
                path.unlink(missing_ok=True)
            else:
                temporary.write_bytes(content)
                temporary.replace(path)

        def move(source: Path, destination: Path) -> None:
            destination.parent.mkdir(parents=True, exist_ok=True)
            # First: an interruption may come right after the move.
            undo(lambda: source.exists() or destination.rename(source))
            source.rename(destination)

        undo(put_back, path.read_bytes() if path.exists() else None)
        replace(self.record, complete=False).write(results, temporary)
        for place in replaced:
            waits = place not in new or (work / "new" / place).exists()
            if waits and (save_dir / place).exists():
                move(save_dir / place, work / OLD / place)
        for place in new:
            folder = (save_dir / place).parent
            if not folder.exists():
                undo(_remove_empty, [folder])
                folder.mkdir()
            if (work / "new" / place).exists():
                move(work / "new" / place, save_dir / place)
        self.record.write(results, temporary)
