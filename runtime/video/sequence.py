"""What the rest of the runtime knows about one input, and the frames that come out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..media import Media

RateSource = Literal["--stride", "--fps", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceInput:
    """One checked input: it exists, its kind is known and its first frame can be read.

    `kind` is the name of its source (`sources.py`); `open` gives its frames, each time from the start.
    `name` is safe as the name of a directory and is unique in a run.
    `video_hw` is (height, width) in pixels as shown, that is after the rotation the file asks for.
    `stride` is in frames; `stride_source` says which option or file decided it.
    `output_fps` is in frames per second: the file's own average, or --fps, or 24.
    `time_base_s` is the unit of time stamps in seconds; every frame's `time_s` is a multiple of it.
    `frame_count_estimate` is exact for a directory; for a video it is what the file's index claims,
    None where it claims nothing.
    `frame_paths` is empty for a video. `notes` are remarks worth a log line each.
    """

    name: str
    path: Path
    kind: str
    open: Callable[[], FrameReader] = field(repr=False, compare=False)
    video_hw: tuple[int, int]
    stride: int
    stride_source: RateSource
    output_fps: float
    time_base_s: Fraction
    frame_count_estimate: int | None
    frame_paths: tuple[Path, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def media(self) -> Media:
        """What writers of results need to know."""
        return Media(video_hw=self.video_hw, fps=self.output_fps, time_base_s=self.time_base_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame: `rgb` is (H, W, 3) uint8, C-contiguous; `time_s` counts from the first frame."""

    index: int
    rgb: NDArray[np.uint8]
    time_s: float


class FrameReader(Protocol):
    """Frames of one sequence in order, each one once. A context manager."""

    @property
    def is_variable_rate(self) -> bool:
        """Whether the frames read so far are unevenly spaced in time."""
        ...

    def __enter__(self) -> FrameReader: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __iter__(self) -> Iterator[Frame]: ...
