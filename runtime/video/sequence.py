"""What the rest of the runtime knows about one input, and the frames that come out of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..files.checkpoint_identity import file_sha256
from ..files.made_from import ClipOrigin, MadeFrom
from ..files.typed_json import as_text
from ..media import Media, Sound

if TYPE_CHECKING:
    from .stream_facts import StreamFacts

WINDOW_RATE_FPS = 8
"""Frames of a window are about 1/8 s apart (published implementation)."""

DEFAULT_OUTPUT_FPS = 24.0
"""Frames per second of an overlay whose input has no rate of its own (published implementation)."""

TIME_BASE_LIMIT = 1_000_000
"""Largest denominator of a frame duration; enough to recover 1001/60000 from a decimal."""


def stride_for_fps(fps: float) -> int:
    """Distance in frames between neighbours of a window, max(1, int(fps / 8)).

    Raises:
        GmosError: `fps` is not a positive finite number.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise GmosError(f"frame rate {fps}: expected a positive number of frames per second; give --fps")
    return max(1, int(fps / WINDOW_RATE_FPS))


def window_indices(i: int, frames: int, stride: int, window: int = 5) -> tuple[int, ...]:
    """Frames around frame `i`, `stride` apart, clipped to 0..frames-1; `i` is the middle one."""
    half = window // 2
    return tuple(min(max(i + step * stride, 0), frames - 1) for step in range(-half, half + 1))


def shown_rate(own_fps: Fraction) -> float:
    """A file's average rate as ffmpeg shows it, and as the published scripts read it: with two decimals.

    A rate that two decimals would make 0 stays as it is.
    """
    return round(float(own_fps), 2) or float(own_fps)


def resolve_stride(fps: float | None, stride: int | None, own_fps: Fraction | None) -> int:
    """Stride in frames: --stride before --fps before the file's own rate, rounded as published."""
    if stride is not None:
        return stride
    if fps is None and own_fps is None:
        raise RuntimeError("no frame rate: the caller checks for one")
    return stride_for_fps(fps if fps is not None else shown_rate(own_fps or Fraction(0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceInput:
    """One checked input: it exists, its kind is known and its first frame can be read.

    `kind` is the name of its source (`sources.py`); `open` gives its frames, each time from the start.
    `name` is safe as the name of a directory and is unique in a run.
    `video_hw` is (height, width) in pixels as shown, that is after the rotation the file asks for.
    `stride` is in frames.
    `output_fps` is in frames per second: the file's own average, or --fps, or 24.
    `time_base_s` is the unit of time stamps in seconds; every frame's `time_s` is a multiple of it.
    `frame_count_estimate` is exact for a directory; for a video it is what the file's index claims,
    None where it claims nothing.
    `frame_paths` is empty for a video. `notes` are remarks worth a log line each. `pixel_aspect` is width to height
    of a pixel as it is shown. `stream` is what a video file says of the stream that is decoded; `sound` gives the
    file's sound from its start.
    """

    name: str
    path: Path
    kind: str
    open: Callable[[], FrameReader] = field(repr=False, compare=False)
    video_hw: tuple[int, int]
    stride: int
    output_fps: float
    time_base_s: Fraction
    frame_count_estimate: int | None
    frame_paths: tuple[Path, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    pixel_aspect: Fraction = Fraction(1)
    stream: StreamFacts | None = None
    sound: Callable[[], AbstractContextManager[Sound | None]] | None = field(
        default=None, repr=False, compare=False
    )

    def identity(self) -> str | None:
        """SHA-256 of the video's bytes, of a directory over those of its frames; None for what is no file.

        It reads all of them, about a second a gigabyte.

        Raises:
            GmosError: one cannot be read.
        """
        if self.frame_paths:
            digests = [file_sha256(path) for path in self.frame_paths]
            return hashlib.sha256("".join(digests).encode()).hexdigest()
        return file_sha256(self.path) if self.path.is_file() else None

    def settings(self) -> dict[str, Any]:
        """What decides results of this input, as JSON values; part of their record.

        Raises:
            GmosError: as `identity`.
        """
        return {"input": self.identity(), "stride": self.stride, "fps": self.output_fps}

    def made_from(self, settings: Mapping[str, Any] | None = None, *, dataset: str | None = None) -> MadeFrom:
        """This video, for reports and records.

        Args:
            settings: its own, where they have been asked for: they have its hash.
            dataset: that it is run for.

        Raises:
            GmosError: as `identity`.
        """
        clip = ClipOrigin(
            name=as_text(self.name),
            sha256=(settings or self.settings())["input"],
            stride=self.stride,
            fps=self.output_fps,
            dataset=dataset,
        )
        return MadeFrom(clips=(clip,))

    @property
    def media(self) -> Media:
        """What writers of results need to know."""
        return Media(
            video_hw=self.video_hw,
            fps=self.output_fps,
            pixel_aspect=self.pixel_aspect,
            time_base_s=self.time_base_s,
            stride=self.stride,
            source=as_text(str(self.path)),
            frame_names=tuple(as_text(path.name) for path in self.frame_paths),
            sound=self.sound,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame: `rgb` is (H, W, 3) uint8, C-contiguous; `time_s` counts from the first frame."""

    index: int
    rgb: NDArray[np.uint8]
    time_s: float


class FrameReader(AbstractContextManager["FrameReader"], Protocol):
    """Frames of one sequence in order, each one once. A context manager."""

    @property
    def notes(self) -> Sequence[str]:
        """Remarks on the frames, worth a line each; known when all were read."""

    def __iter__(self) -> Iterator[Frame]: ...


class EvenReader:
    """Frames (H, W, 3) uint8 that have no times of their own: these follow from the frame rate."""

    notes: Sequence[str] = ()

    def __init__(self, frames: Callable[[], Iterable[NDArray[np.uint8]]], fps: float) -> None:
        self._frames = frames
        self._fps = fps

    def __enter__(self) -> EvenReader:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open between frames."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield every frame."""
        for index, rgb in enumerate(self._frames()):
            yield Frame(index=index, rgb=rgb, time_s=index / self._fps)


def even_sequence(
    frames: Callable[[], Iterable[NDArray[np.uint8]]],
    *,
    fps: float | None,
    stride: int | None,
    **fields: Any,
) -> SequenceInput:
    """An input whose frames have no rate of their own; at least one of `fps` and `stride` is given.

    Args:
        frames: gives them from the start, checked.
        fps: frames per second.
        stride: frames between neighbours of a window.
        fields: the other ones of `SequenceInput`.
    """
    output_fps = fps or DEFAULT_OUTPUT_FPS
    return SequenceInput(
        open=partial(EvenReader, frames, output_fps),
        stride=resolve_stride(fps, stride, None),
        output_fps=output_fps,
        time_base_s=1 / Fraction(output_fps).limit_denominator(TIME_BASE_LIMIT),
        **fields,
    )
