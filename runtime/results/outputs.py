"""Writes the results of one sequence, all of them or none, in a private place that never outlives its run for long."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from ...errors import GmosError
from ..atomic_file import writing
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

PREFIX = "work-"
LOCK_NAME = "lock"
CONTENT_NAME = "content"

NO_LOCK = (OSError, NotImplementedError)
"""What locking raises where the file system has no locks."""


@contextmanager
def work_directory(save_dir: Path, private_folder: str) -> Iterator[Path]:
    """Yield an empty directory inside `save_dir / private_folder`, removed at the end with all in it.

    It is on the disk of the results, so that they can be moved into place at once. Directories that
    dead runs left are removed first. Parents made here are removed again where they stay empty.

    Raises:
        GmosError: `save_dir` cannot be made or written to.
    """
    private = save_dir / private_folder
    with writing(save_dir):
        made = [path for path in (private, save_dir, *save_dir.parents) if not path.exists()]
        private.mkdir(parents=True, exist_ok=True)
        remove_stale(private)
        work, lock = _locked_directory(private)
        content = work / CONTENT_NAME
        try:
            content.mkdir()
        except OSError:
            lock.release()
            raise
    try:
        yield content
    finally:
        _remove(work, lock)
        for path in made:
            with suppress(OSError):
                path.rmdir()


def remove_stale(private: Path) -> None:
    """Remove the work directories of runs that are dead: the system drops a lock with its process."""
    for work in private.glob(f"{PREFIX}*"):
        if not work.is_dir():
            continue
        lock = _lock(work)
        # What cannot be opened or locked belongs to a run that is alive.
        with suppress(Timeout, *NO_LOCK):
            lock.acquire(timeout=0)
            _remove(work, lock)


def _locked_directory(private: Path) -> tuple[Path, FileLock]:
    """A new work directory and what locks it."""
    while True:
        work = private / f"{PREFIX}{uuid.uuid4().hex}"
        work.mkdir()
        lock = _lock(work)
        # Without locks on this file system nobody can tell a dead run from a live one, nor remove either.
        with suppress(*NO_LOCK):
            lock.acquire()
        if work.is_dir():
            return work, lock
        # Another run took the directory for a dead one before it was locked.
        lock.release()


def _lock(work: Path) -> FileLock:
    # Whoever holds it may end in another thread than it began.
    return FileLock(work / LOCK_NAME, thread_local=False)


def _remove(work: Path, lock: FileLock) -> None:
    """Remove a directory whose lock is held; the lock's own file last, as Windows keeps what is open."""
    shutil.rmtree(work / CONTENT_NAME, ignore_errors=True)
    lock.release()
    shutil.rmtree(work, ignore_errors=True)


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
            raise GmosError(
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
    save_dir, settings = results.save_dir, as_json(results.settings)
    modes, replaced = results.modes, results.targets()
    if previous is not None:
        if previous.complete and (previous.settings, previous.frames) == (settings, frames):
            modes |= previous.modes
        else:
            # Other modes of the same sequence, made in another way, would contradict these.
            replaced |= targets(results.variant, previous.modes, results.sequence)
    temporary, path = work / "record.json", results.record_path
    if path.exists():
        undo(path.write_bytes, path.read_bytes())
    else:
        undo(path.unlink, missing_ok=True)

    def move(source: Path, destination: Path) -> None:
        destination.parent.mkdir(parents=True, exist_ok=True)
        source.rename(destination)
        undo(destination.rename, source)

    # From here to the end a run that is killed leaves a record that says so.
    record = CompletionRecord(
        modes=modes, frames=frames, settings=settings, complete=False, not_finite=results.not_finite
    )
    record.write(results, temporary)
    for place in replaced:
        if (save_dir / place).exists():
            move(save_dir / place, work / "old" / place)
    for place in results.targets():
        folder = (save_dir / place).parent
        if not folder.exists():
            folder.mkdir()
            undo(folder.rmdir)
        move(work / "new" / place, save_dir / place)
    replace(record, complete=True).write(results, temporary)
