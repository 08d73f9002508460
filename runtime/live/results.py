"""What a stream leaves while it runs: segments of files, and lines on standard output."""

from __future__ import annotations

import logging
import math
import secrets
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ... import __version__
from ...errors import GmosError
from ..contract import Variant
from ..files.atomic_file import replaced_at_end, writing
from ..files.made_from import KEY, NOTHING, MadeFrom
from ..files.typed_json import json_bytes
from ..frame_result import FrameResult
from ..media import Media
from ..results.completion import PRIVATE_FOLDER
from ..results.outputs import work_directory
from .incoming import LiveSink
from .objects import json_line
from .segment_writers import LIVE_WRITERS, SegmentWriter
from .segments import LIVE_FOLDER, PREFIX, SESSION, OpenSegment, SegmentRecord, prune, replace_json, settle

logger = logging.getLogger(__name__)

SESSION_FORMAT = 1
"""Of `session.json`; a reader refuses what it does not know."""

DEFAULT_SEGMENT_S = 60.0

RUN_NAME = "%Y%m%dT%H%M%S"
"""The folder of a run: when it began, in UTC; milliseconds and four letters follow."""


def check_live_modes(modes: Collection[str], variant: Variant) -> None:
    """Refuse modes of `--save_mode` that a stream cannot have.

    Raises:
        GmosError: one of them needs the whole video.
    """
    known = LIVE_WRITERS[variant]
    for mode in sorted(modes):
        if mode not in known:
            raise GmosError(
                f"--save_mode {mode}: needs the whole video, and a stream has no end; expected "
                f"{', '.join(known)} of a stream, or a file without --live"
            )


def open_live_sinks(
    save_dir: Path | None,
    modes: Collection[str],
    media: Media,
    *,
    variant: Variant,
    segment_s: float = DEFAULT_SEGMENT_S,
    keep_segments: int | None = None,
    tracks_to_stdout: bool = False,
    settings: Mapping[str, Any] | None = None,
    made_from: MadeFrom = NOTHING,
) -> list[LiveSink]:
    """What takes the answers of a run on a stream; nothing is made before they are entered.

    Args:
        save_dir: where segments go, below `live/` and the stream's name; None: nowhere, and no modes are written.
        modes: of `--save_mode`: tracks, mask, mp4, and of GMOS-S prob.
        media: what is known of the stream; `sequence` is its name.
        variant: of the model.
        segment_s: seconds of the source's time after which a new segment begins.
        keep_segments: how many segments of this stream stay, those of earlier bounded runs among them, and not those
            of runs that still go on; None: all.
        tracks_to_stdout: write every answer as a line of JSON to standard output.
        settings: what changes the results, as JSON values.
        made_from: what they are made from.

    Raises:
        GmosError: a mode that needs the whole video, or a bound out of its range.
    """
    check_live_modes(modes, variant)
    if not (math.isfinite(segment_s) and segment_s > 0):
        raise GmosError(f"--segment {segment_s:g}: expected a positive number of seconds")
    if keep_segments is not None and keep_segments < 1:
        raise GmosError(f"--keep_segments {keep_segments}: expected 1 or more")
    sinks: list[LiveSink] = []
    if save_dir is not None and modes:
        session = {
            "format": SESSION_FORMAT,
            "software": f"gmos-deploy {__version__}",
            "stream": media.sequence,
            "variant": variant,
            "modes": sorted(modes),
            "segment_s": segment_s,
            "keep_segments": keep_segments,
            "video": {
                "source": media.source,
                "height": media.video_hw[0],
                "width": media.video_hw[1],
                "fps": media.fps,
                "stride": media.stride,
            },
            "settings": dict(settings or {}),
            KEY: asdict(made_from),
        }
        sinks.append(SegmentedResults(save_dir, media, session))
    if tracks_to_stdout:
        sinks.append(TracksToStdout())
    return sinks


class SegmentedResults:
    """Files of a stream, in segments of bounded length below `SAVE_DIR/live/STREAM/RUN`. A `LiveSink`.

    The open segment is in a private folder and appears when it is closed: after `segment_s` of the source's time,
    before a new sequence, and at the end, also of a run that is interrupted. What a killed process had written of its
    own is put into place by the next run on the same output place, as far as it is whole.
    """

    def __init__(self, save_dir: Path, media: Media, session: dict[str, Any]) -> None:
        name = media.sequence
        if not name.strip(".") or Path(name).name != name:
            raise GmosError(f"a stream called {name!r}: expected a name that a folder can have")
        self._save_dir = save_dir
        self._media = media
        self._session = session
        self._segment_s: float = session["segment_s"]
        self._keep: int | None = session["keep_segments"]
        self._makers = [
            make
            for mode, makers in LIVE_WRITERS[session["variant"]].items()
            if mode in session["modes"]
            for make in makers
        ]
        self.needs_rgb = "mp4" in session["modes"]
        self._stream = save_dir / LIVE_FOLDER / name
        self._stack = ExitStack()
        self._work: Path | None = None
        self._run = ""
        self._open: OpenSegment | None = None
        self._failed = False
        self.segments = 0
        """Put into place so far."""
        self.answers = 0

    @property
    def folder(self) -> Path | None:
        """Where this run's segments are; None before the first one."""
        return self._stream / self._run if self.segments else None

    def __enter__(self) -> SegmentedResults:
        with ExitStack() as opening:
            self._work = opening.enter_context(
                work_directory(self._save_dir, PRIVATE_FOLDER, prefix=PREFIX, settle=settle)
            )
            if self._keep is not None and self._stream.is_dir():
                # What a dead run had written may just have come.
                prune(self._stream, "", self._keep, self._work)
            self._stack = opening.pop_all()
        return self

    def write(self, answer: FrameResult) -> None:
        """See `LiveSink`."""
        try:
            reset = answer.live is not None and answer.live.reset_before
            if self._open is not None and (reset or self._is_over(self._open, answer.time_s)):
                self._close()
            if self._open is None:
                self._open = self._begin(answer, reset=reset)
            self._open.write(answer)
            self.answers += 1
        except (OSError, GmosError):
            self._failed = True
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the open segment, however the run ends; after an error of its own keep what is whole of it."""
        with self._stack:
            if self._failed or (self._open is not None and self._open.torn):
                self._salvage(error)
            else:
                self._close()
                self._tell_end()

    def _is_over(self, segment: OpenSegment, time_s: float) -> bool:
        # To the microsecond: sums of intervals miss a whole second by less.
        return round(time_s - segment.record.first_time_s, 6) >= self._segment_s

    def _begin(self, answer: FrameResult, *, reset: bool) -> OpenSegment:
        if self._work is None:
            raise RuntimeError("results are not open: use them in a with statement")
        if not self._run:
            now = datetime.now(timezone.utc)
            # Two runs may begin at once.
            self._run = f"{now.strftime(RUN_NAME)}.{now.microsecond // 1000:03d}Z-{secrets.token_hex(2)}"
            self._session |= {
                "run": self._run,
                "started": _iso(now),
                "started_monotonic_s": time.monotonic(),
            }
            with writing(self._work):
                replace_json(self._work / SESSION, self._told(ended=None))
        record = SegmentRecord(
            stream=self._stream.name,
            run=self._run,
            number=self.segments,
            first_frame=answer.index,
            first_time_s=answer.time_s,
            reset_before=reset,
        )
        return OpenSegment(self._work, record, self._writers)

    def _writers(self, folder: Path) -> list[SegmentWriter]:
        return [make(folder, self._media) for make in self._makers]

    def _close(self) -> None:
        closed, self._open = self._open, None
        if closed is None:
            return
        try:
            closed.close(self._save_dir)
        except BaseException as error:
            self._failed = True
            self._salvage(error)
            raise
        self.segments += 1
        if self._keep is not None and self._work is not None:
            prune(self._stream, self._run, self._keep, self._work)

    def _salvage(self, why: BaseException | None) -> None:
        """Keep what is whole of the segment that could not be written; `why` it could not is said by others."""
        left, self._open = self._open, None
        if left is not None:
            left.abandon()
        if self._work is not None:
            try:
                settle(self._work, self._save_dir)
            except GmosError as error:
                if str(error) != str(why):
                    logger.warning("%s", error)

    def _tell_end(self) -> None:
        if self.folder is not None:
            session = self._told(ended=_iso(datetime.now(timezone.utc)))
            with replaced_at_end(self.folder / SESSION) as temporary:
                temporary.write_bytes(json_bytes(session))

    def _told(self, *, ended: str | None) -> dict[str, Any]:
        return self._session | {"ended": ended, "segments": self.segments, "answers": self.answers}


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


class TracksToStdout:
    """Every answer as a line of JSON on standard output, flushed. A `LiveSink`."""

    needs_rgb = False

    def __init__(self, output: BinaryIO | None = None) -> None:
        self._output = sys.stdout.buffer if output is None else output

    def __enter__(self) -> TracksToStdout:
        return self

    def write(self, answer: FrameResult) -> None:
        """See `LiveSink`.

        Raises:
            BrokenPipeError: whoever read has closed the pipe, which ends the run as it ends any command's.
            OSError: standard output is a file that cannot grow.
        """
        self._output.write(json_line(answer))
        self._output.flush()

    def __exit__(self, *_: object) -> None:
        pass
