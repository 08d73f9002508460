"""Files and directories of frames played as streams: with every frame, or in their own time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from functools import partial

from ...video.inputs import resolve_inputs
from ...video.sequence import SequenceInput
from .source import Asked, LiveInput, Picture

KIND = "file"


class PlayedSource:
    """What `gmos-run` takes without --live."""

    kind = KIND

    def takes(self, given: str) -> bool:  # noqa: ARG002 - asked last
        """Whatever no other kind takes."""
        return True

    def resolve(self, given: str, asked: Asked) -> LiveInput:
        """See `LiveSource`; checked as for a run over files."""
        (sequence,) = resolve_inputs([given], fps=asked.fps, stride=asked.stride)
        return LiveInput(
            kind=KIND,
            name=sequence.name,
            shown=str(sequence.path),
            open=partial(play, sequence, paced=asked.dropping),
            waits=not asked.dropping,
            returns=False,
            counted=True,
            rate_fps=sequence.output_fps,
            stride=sequence.stride,
            notes=sequence.notes,
        )


def play(sequence: SequenceInput, timeout_s: float, *, paced: bool) -> PlayedReader:  # noqa: ARG001 - files do not stall
    """Open a checked input.

    Args:
        sequence: to play.
        timeout_s: as every source.
        paced: give frames at their times, as a camera does, and not as soon as they are asked for.
    """
    return PlayedReader(sequence, paced=paced)


class PlayedReader:
    """Frames of a checked input as pictures.

    Args:
        sequence: to play.
        paced: see `play`.
        clock: monotonic, in seconds.
        pause: waits so many seconds.
    """

    def __init__(
        self,
        sequence: SequenceInput,
        *,
        paced: bool,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._paced = paced
        self._clock = clock
        self._pause = pause
        self._stack = ExitStack()
        self._frames = self._stack.enter_context(sequence.open())
        self.rate_fps: float | None = sequence.output_fps
        self.pixel_aspect: Fraction = sequence.pixel_aspect

    def __enter__(self) -> PlayedReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Picture]:
        """See `PictureReader`."""
        start_s = self._clock()
        for frame in self._frames:
            due_s = start_s + frame.time_s
            if self._paced and due_s > self._clock():
                self._pause(due_s - self._clock())
            yield Picture(rgb=frame.rgb, time_s=frame.time_s, arrival_s=self._clock())
