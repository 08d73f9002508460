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
from .formats import FrameWriter

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


class SequenceOutputs:
    """Takes the frames of one sequence and files them when all are there.

    Use it in a `with` statement and call `commit` at its end: until then everything is in a private
    directory, which goes away if the block ends any other way.
    """

    def __init__(self, results: ResultSet, media: Media, *, existing: Existing = "error") -> None:
        """Prepare outputs; nothing is written before entry.

        Args:
            results: what to write and where.
            media: size, rate and unit of time of the video.
            existing: "error" refuses to replace results, "overwrite" replaces them, "resume" replaces
                unfinished ones.
        """
        self._results = results
        self._media = media
        self._existing: Existing = existing
        self._cleanup = ExitStack()
        self._writers: list[FrameWriter] = []
        self._open_writers = ExitStack()
        self._work = Path()

    def __enter__(self) -> SequenceOutputs:
        results = self._results
        if should_skip(results, self._existing):
            raise RuntimeError(f"{results.sequence} is finished: ask should_skip() before writing it")
        with ExitStack() as stack:
            self._work = stack.enter_context(work_directory(results.save_dir, PRIVATE_FOLDER))
            stack.callback(self._drop_writers)
            for place, (known, result) in results.targets().items():
                writer = known.writer(self._work / "new" / place, result, self._media)
                self._writers.append(self._open_writers.enter_context(writer))
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Drop whatever was not committed."""
        self._cleanup.close()

    def _drop_writers(self) -> None:
        # Told of an error, they only close their files; committed ones have left the stack by now.
        dropped = RuntimeError("not committed")
        self._open_writers.__exit__(type(dropped), dropped, None)

    def write(self, answer: FrameResult) -> None:
        """Write the next frame in every format.

        Raises:
            GmosError: a file cannot be written.
        """
        for writer in self._writers:
            writer.write(answer)

    def commit(self, frames: int) -> None:
        """Move everything into place, and last of all write the completion record.

        If any step fails, what was there before is put back.

        Args:
            frames: frames of the sequence; every result must have that many.

        Raises:
            GmosError: a file cannot be written or moved, or results have turned up in the meantime.
        """
        counts = [writer.frames_written for writer in self._writers]
        if any(count != frames for count in counts):
            raise RuntimeError(f"{counts} frames written, {frames} expected of each")
        self._open_writers.close()
        if should_skip(self._results, self._existing):
            raise GmosError(
                f"{self._results.sequence} was finished by another run in the meantime; its results in "
                f"{self._results.save_dir} are kept"
            )
        with writing(self._results.save_dir), ExitStack() as undo:
            self._replace(frames, undo.callback)
            undo.pop_all()

    def _replace(self, frames: int, undo: Callable[..., object]) -> None:
        results, save_dir = self._results, self._results.save_dir
        try:
            previous = read_record(results)
        except GmosError:
            if self._existing != "overwrite":
                raise
            previous = None
        settings = as_json(results.settings)
        modes, replaced = results.modes, results.targets()
        if previous is not None:
            if previous.complete and (previous.settings, previous.frames) == (settings, frames):
                modes |= previous.modes
            else:
                # Other modes of the same sequence, made in another way, would contradict these.
                replaced |= targets(results.variant, previous.modes, results.sequence)
        temporary, path = self._work / "record.json", results.record_path
        if path.exists():
            undo(path.write_bytes, path.read_bytes())
        else:
            undo(path.unlink, missing_ok=True)

        def move(source: Path, destination: Path) -> None:
            destination.parent.mkdir(parents=True, exist_ok=True)
            source.rename(destination)
            undo(destination.rename, source)

        # From here to the end a run that is killed leaves a record that says so.
        record = CompletionRecord(modes=modes, frames=frames, settings=settings, complete=False)
        record.write(results, temporary)
        for place in replaced:
            if (save_dir / place).exists():
                move(save_dir / place, self._work / "old" / place)
        for place in results.targets():
            folder = (save_dir / place).parent
            if not folder.exists():
                folder.mkdir()
                undo(folder.rmdir)
            move(self._work / "new" / place, save_dir / place)
        replace(record, complete=True).write(results, temporary)


def file_results(
    answers: Generator[FrameResult, None, None],
    results: ResultSet,
    media: Media,
    *,
    existing: Existing = "error",
    watch: Watch | None = None,
) -> list[Path]:
    """Write the answers of a run as they come and file them when the last one is there.

    Args:
        answers: of one video, with their frames where a format needs them; closed at the end.
        results: what to write and where.
        media: size, rate and unit of time of the video.
        existing: see `SequenceOutputs`.
        watch: hears of writing.

    Returns:
        What was written, by path.

    Raises:
        GmosError: as the run, or the output place turned out to be unusable; nothing is filed then.
    """
    with SequenceOutputs(results, media, existing=existing) as outputs, closing(answers):
        frames = 0
        for answer in answers:
            with doing(watch, "write"):
                outputs.write(answer)
            frames += 1
        outputs.commit(frames)
    return results.paths()
