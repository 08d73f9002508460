"""What becomes of the sequences of a run: done, skipped or failed; and which failures are the machine's."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from ..errors import GmosError, MachineError
from ..runtime.files.made_from import NOTHING, MadeFrom
from ..runtime.files.typed_json import as_text
from ..runtime.pipeline.clip import ClipSummary
from ..runtime.results.formats import OVERLAYS
from ..runtime.video.sequence import SequenceInput
from ..runtime.video.stream_facts import StreamFacts
from .listing import Item

logger = logging.getLogger(__name__)

FAILED_STATUS = 3
"""Exit status of a command that has done its work but for some of its sequences."""

MIB = 1 << 20

LOST = re.compile(r"CUDA (error|failure)|device-side assert|cuDNN error|CUBLAS_STATUS", re.IGNORECASE)
"""In a library's own exception: the device is lost to this process."""

NO_DISK = (errno.ENOSPC, errno.EIO, errno.EROFS)

Status = Literal["done", "skipped", "failed"]
Answer = TypeVar("Answer")


@dataclass(slots=True, kw_only=True)
class SequenceSummary(ClipSummary):
    """What became of one sequence, and what was written.

    `input` as given; `status`, with `error` in words of one that failed, and None otherwise. `stride` in frames, `fps`
    of the overlays and `stream` of a video file are None where it was never read. `made_from` has the networks and
    the clip.
    """

    name: str
    input: str = ""
    status: Status = "done"
    error: str | None = None
    stride: int | None = None
    fps: float | None = None
    stream: StreamFacts | None = None
    outputs: list[Path] = field(default_factory=list)
    made_from: MadeFrom = NOTHING

    @classmethod
    def of_item(cls, item: Item, status: Status, error: str | None = None) -> SequenceSummary:
        """Of one that was not read."""
        shown = None if error is None else as_text(" ".join(error.split()))
        return cls(name=as_text(item.name), input=as_text(item.given), status=status, error=shown)

    def read(self, sequence: SequenceInput) -> SequenceSummary:
        """With what is known once it was read."""
        self.stride, self.fps, self.stream = sequence.stride, sequence.output_fps, sequence.stream
        return self

    def lines(self) -> list[str]:
        """For people."""
        if self.status == "failed":
            return [f"{self.name}: failed: {self.error}"]
        if self.status == "skipped":
            notes = f": {', '.join(self.notes)}" if self.notes else ""
            rate = "" if self.fps is None else f" (stride {self.stride}, {self.fps:.6g} fps)"
            return [f"{self.name}: finished before, skipped{rate}{notes}"]
        return _lines_of_done(self)


def _lines_of_done(summary: SequenceSummary) -> list[str]:
    total_s = sum(summary.stage_s.values())
    objects = f"foreground on {_frames(summary.moving_frames)}"
    if summary.mos_i_objects is not None:
        mos = "no MOS" if summary.mos_objects is None else f"{summary.mos_objects} in MOS"
        some = f"{summary.mos_i_objects} moving object{'s' * (summary.mos_i_objects != 1)}"
        objects = f"{some}, {mos}, motion on {_frames(summary.moving_frames)}"
    rate = summary.frames / total_s if total_s else 0.0
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.stage_s.items())
    lines = [
        f"{summary.name}: {_frames(summary.frames)}, {objects}; {total_s:.1f} s, {rate:.2f} frames/s ({stages})"
    ]
    about = f"  stride {summary.stride}, {summary.fps:.6g} fps"
    lines.append(about if summary.stream is None else f"{about}: {summary.stream.line()}")
    if summary.feature_bytes.get("host") or summary.feature_bytes.get("disk"):
        places = ", ".join(f"{size / MIB:.0f} MiB {place}" for place, size in summary.feature_bytes.items())
        lines.append(f"  features: {places}")
    if (summary.conditioning_memories or 0) > 1:
        lines.append(f"  conditioning memories: up to {summary.conditioning_memories} an object")
    sparse = {"decoded": summary.decoded_frames, "proposed": summary.proposed_frames}
    if counts := [f"{count} {what}" for what, count in sparse.items() if count is not None]:
        lines.append(f"  frames {', '.join(counts)}, of {summary.frames}")
    lines += [f"  note: {note}" for note in summary.notes]
    lines += [
        f"  note: values that are not finite on {_frames(count)} ({network})"
        for network, count in summary.not_finite.items()
    ]
    lines += [f"  {path}" for path in summary.outputs]
    return lines


def _frames(count: int) -> str:
    return f"{count} frame{'s' * (count != 1)}"


def overlays_of(summary: SequenceSummary) -> list[Path]:
    """What can be looked at."""
    return [path for path in summary.outputs if path.suffix == OVERLAYS.ending]


def is_the_machines(error: BaseException) -> bool:
    """Whether an error is this machine's, so that the next video would fail as well."""
    if isinstance(error, GmosError):
        return isinstance(error, MachineError)
    if isinstance(error, OSError):
        return error.errno in NO_DISK
    return isinstance(error, RuntimeError) and LOST.search(str(error)) is not None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a video failed, in words."""

    reason: str


def answer_of(name: str, work: Callable[[], Answer]) -> Answer | Failure:
    """What work on one of several videos answers, or why it failed.

    What nobody expected goes to the log with its traceback: one video out of thousands may find a fault of a library,
    and the others are as good as before.

    Raises:
        Exception: of work that failed for what is the machine's.
    """
    try:
        return work()
    except GmosError as error:
        if is_the_machines(error):
            raise
        return Failure(str(error))
    except Exception as error:
        if is_the_machines(error):
            raise
        logger.exception("%s: this was not expected", name)
        return Failure(f"{type(error).__name__}: {error}")
