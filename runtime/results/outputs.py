"""Writes the results of one sequence: all of them, or none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..atomic_file import writing
from .completion import (
    PRIVATE_FOLDER,
    CompletionRecord,
    Existing,
    ResultSet,
    as_json,
    read_record,
    should_skip,
    targets,
    write_record,
)
from .mp4_writer import DEFAULT_CRF, Mp4Writer
from .overlay import overlay
from .png_writer import PngKind, PngWriter
from .save_modes import ResultName, SaveMode
from .work_directory import work_directory


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

    def __init__(
        self,
        results: ResultSet,
        *,
        video_hw: tuple[int, int],
        fps: float,
        time_base_s: Fraction | None = None,
        existing: Existing = "error",
        crf: int = DEFAULT_CRF,
    ) -> None:
        """Prepare outputs; nothing is written before entry.

        Args:
            results: what to write and where.
            video_hw: height and width of the frames, in pixels.
            fps: frames per second of the overlays.
            time_base_s: unit of the frame times of the overlays, in seconds; by default one frame.
            existing: "error" refuses to replace results, "overwrite" replaces them, "resume" replaces
                unfinished ones.
            crf: quality of the overlays, 0 (lossless) to 51.
        """
        self._results = results
        self._video_hw = video_hw
        self._fps = fps
        self._time_base_s = time_base_s
        self._existing: Existing = existing
        self._crf = crf
        self._cleanup = ExitStack()
        self._pngs: dict[tuple[SaveMode, ResultName], PngWriter] = {}
        self._mp4s: dict[ResultName, Mp4Writer] = {}
        self._encoders = ExitStack()
        self._work = Path()

    def __enter__(self) -> SequenceOutputs:
        if should_skip(self._results, self._existing):
            raise RuntimeError(f"{self._results.sequence} is finished: ask should_skip() before writing it")
        with ExitStack() as stack:
            self._work = stack.enter_context(work_directory(self._results.save_dir, PRIVATE_FOLDER))
            stack.callback(self._drop_encoders)
            for (mode, result), place in self._results.targets().items():
                path = self._new(place)
                if mode == "mp4":
                    writer = Mp4Writer(
                        path,
                        video_hw=self._video_hw,
                        fps=self._fps,
                        time_base_s=self._time_base_s,
                        crf=self._crf,
                    )
                    self._mp4s[result] = self._encoders.enter_context(writer)
                else:
                    kind: PngKind = "palette" if mode == "mask" else "grey"
                    self._pngs[mode, result] = PngWriter(path, kind)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop whatever was not committed."""
        self._cleanup.close()

    def _drop_encoders(self) -> None:
        # Told of an error, they only close their files; committed ones have left the stack by now.
        dropped = RuntimeError("not committed")
        self._encoders.__exit__(type(dropped), dropped, None)

    def wants(self, mode: SaveMode) -> bool:
        """Whether this mode was asked for. Frames of other modes must not be written."""
        return mode in self._results.modes

    def write_mask(self, result: ResultName, index: int, labels: NDArray[np.uint8]) -> None:
        """Write (H, W) uint8 labels as a palette PNG; frames may come in any order.

        Raises:
            GmosError: the file cannot be written.
        """
        self._pngs["mask", result].write(index, labels)

    def write_probability(self, index: int, probability: NDArray[np.uint8]) -> None:
        """Write (H, W) uint8 floor(255 p) as a grey PNG; frames may come in any order. GMOS-S only.

        Raises:
            GmosError: the file cannot be written.
        """
        self._pngs["prob", "foreground"].write(index, probability)

    def write_overlay(
        self, result: ResultName, rgb: NDArray[np.uint8], labels: NDArray[np.uint8], time_s: float
    ) -> None:
        """Append labels (H, W) over a frame (H, W, 3), both uint8, to the .mp4; frames come in order.

        Raises:
            GmosError: the file cannot be written.
        """
        self._mp4s[result].write(overlay(rgb, labels), time_s)

    def commit(self, frames: int) -> None:
        """Move everything into place, and last of all write the completion record.

        If any step fails, what was there before is put back.

        Args:
            frames: frames of the sequence; every result must have that many.

        Raises:
            GmosError: a file cannot be written or moved, or results have turned up in the meantime.
        """
        counts = [png.frames_written for png in self._pngs.values()]
        counts += [mp4.frames_written for mp4 in self._mp4s.values()]
        if any(count != frames for count in counts):
            raise RuntimeError(f"{counts} frames written, {frames} expected of each")
        self._encoders.close()
        if should_skip(self._results, self._existing):
            raise GmosError(
                f"{self._results.sequence} was finished by another run in the meantime; its results in "
                f"{self._results.save_dir} are kept"
            )
        with writing(self._results.save_dir), ExitStack() as undo:
            self._replace(frames, undo.callback)
            undo.pop_all()

    def _replace(self, frames: int, undo: Callable[..., object]) -> None:
        results = self._results
        previous = self._previous_record()
        settings = as_json(results.settings)
        modes, replaced = results.modes, dict(results.targets())
        if previous is not None:
            if previous.complete and (previous.settings, previous.frames) == (settings, frames):
                modes |= previous.modes
            else:
                # Other modes of the same sequence, made in another way, would contradict these.
                replaced.update(targets(results.variant, previous.modes, results.sequence))
        temporary = self._work / "record.json"
        undo(self._restore_record, self._record_bytes())
        # From here to the end a run that is killed leaves a record that says so.
        record = CompletionRecord(modes=modes, frames=frames, settings=settings, complete=False)
        write_record(results, record, temporary)
        for place in replaced.values():
            if (results.save_dir / place).exists():
                self._move(results.save_dir / place, self._work / "old" / place, undo)
        for place in results.targets().values():
            folder = (results.save_dir / place).parent
            if not folder.exists():
                folder.mkdir()
                undo(folder.rmdir)
            self._move(self._new(place), results.save_dir / place, undo)
        write_record(results, replace(record, complete=True), temporary)

    def _record_bytes(self) -> bytes | None:
        path = self._results.record_path
        return path.read_bytes() if path.exists() else None

    def _restore_record(self, content: bytes | None) -> None:
        if content is None:
            self._results.record_path.unlink(missing_ok=True)
        else:
            self._results.record_path.write_bytes(content)

    def _previous_record(self) -> CompletionRecord | None:
        try:
            return read_record(self._results)
        except GmosError:
            if self._existing == "overwrite":
                return None
            raise

    @staticmethod
    def _move(source: Path, destination: Path, undo: Callable[..., object]) -> None:
        destination.parent.mkdir(parents=True, exist_ok=True)
        source.rename(destination)
        undo(destination.rename, source)

    def _new(self, place: PurePosixPath) -> Path:
        return self._work / "new" / place
