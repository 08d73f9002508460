"""Checks everything about the inputs before any other work starts: files, directories, frames already there."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..files.spill_file import SpillFile
from ..pi3_frame import PI3_AREA_PX, PI3_PATCH_PX, pi3_size_wh
from .sequence import SequenceInput, even_sequence
from .sources import Source, source_of, unreadable

NAME_LIMIT_BYTES = 240
"""Longest sequence name: a file name may have 255 bytes, and results add endings to it."""

LEAST_FPS, MOST_FPS = 1e-3, 1e6
"""From a frame every quarter of an hour to the fastest cameras; times of frames are exact in between."""

Given = str | os.PathLike[str]

KIND = "frames"


def resolve_inputs(
    given: Sequence[Given],
    *,
    fps: float | None,
    stride: int | None,
    names: Sequence[str] | None = None,
    pi3_area_px: int = PI3_AREA_PX,
    patch_px: int = PI3_PATCH_PX,
) -> list[SequenceInput]:
    """Check all inputs of a run, in their order.

    Every video is read whole and its first frame decoded, for every directory all headers are read. The stride
    is `stride` if given, else follows from `fps` if given, else from the video's own average rate.

    Args:
        given: inputs of one kind that is in `sources.SOURCES`: video files, or directories of frames.
        fps: frames per second, --fps. It never changes the output rate of a video that has its own.
        stride: frames between neighbours of a window, --stride.
        names: sequence names, where the inputs' own are not those of the results.
        pi3_area_px: area budget of a Pi3 frame in pixels.
        patch_px: side of a Pi3 patch in pixels.

    Raises:
        GmosError: the first thing found that cannot be used.
    """
    if not given:
        raise GmosError("no input was given; expected video files or directories of frames after --input-rgb")
    check_rate(fps, stride)
    inputs = [os.fspath(one) for one in given]
    sources = [source_of(one) for one in inputs]
    _refuse_mixed(inputs, sources)
    if names is None:
        names = [source.sequence_name(one) for one, source in zip(inputs, sources, strict=True)]
    # Those of a dataset's list, too.
    names = [sequence_name(one, name) for one, name in zip(inputs, names, strict=True)]
    _refuse_repeated(inputs, names)
    source = sources[0]
    if source.needs_rate and fps is None and stride is None:
        # What cannot be used at all says so first.
        _resolve(source, inputs[0], names[0], fps=fps, stride=1)
        raise GmosError(
            f"{inputs[0]} is {source.article} of frames, which has no frame rate; expected --fps (of the original "
            f"video) or --stride"
        )
    resolved = []
    for one, name in zip(inputs, names, strict=True):
        sequence = _resolve(source, one, name, fps=fps, stride=stride)
        height, width = sequence.video_hw
        try:
            pi3_size_wh(width, height, pi3_area_px, patch_px)
        except GmosError as error:
            raise GmosError(f"{one}: {error}") from error
        resolved.append(sequence)
    return resolved


def _resolve(
    source: Source, given: str, name: str, *, fps: float | None, stride: int | None
) -> SequenceInput:
    try:
        return source.resolve(given, name=name, fps=fps, stride=stride)
    except OSError as error:
        raise unreadable(given, error) from error


def check_rate(fps: float | None, stride: int | None) -> None:
    """Refuse a frame rate or a stride that cannot be one.

    Raises:
        GmosError: `fps` is not a positive number, or `stride` is below 1.
    """
    if fps is not None and not LEAST_FPS <= fps <= MOST_FPS:
        raise GmosError(
            f"--fps {fps}: expected a positive number of frames per second, {LEAST_FPS:g} to {MOST_FPS:g}"
        )
    if stride is not None and stride < 1:
        raise GmosError(f"--stride {stride}: expected a whole number of frames, at least 1")


def _refuse_mixed(inputs: Sequence[str], sources: Sequence[Source]) -> None:
    for one, source in zip(inputs, sources, strict=True):
        if source.kind != sources[0].kind:
            raise GmosError(
                f"{inputs[0]} is {sources[0].article} and {one} is {source.article}; expected inputs of one kind; "
                f"run them separately"
            )


def sequence_name(given: str, name: str) -> str:
    """The name that results of an input are filed under.

    Raises:
        GmosError: no file could have that name.
    """
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise GmosError(f"{given!a} has a name that is not valid UTF-8; rename it") from error
    if name in ("", ".", "..") or any(unicodedata.category(letter) == "Cc" for letter in name):
        raise GmosError(f"{given!a} has a name that results cannot be filed under; rename it")
    if length > NAME_LIMIT_BYTES:
        raise GmosError(
            f"{given} has a name of {length} bytes; expected at most {NAME_LIMIT_BYTES}; rename it"
        )
    return name


def _refuse_repeated(inputs: Sequence[str], names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for one, name in zip(inputs, names, strict=True):
        if name in seen:
            raise GmosError(
                f"{seen[name]} and {one} are both sequence {name!r} and would overwrite each other; "
                f"rename one or run them with different --save-dir"
            )
        seen[name] = one


def resolve_frames(
    frames: Iterable[NDArray[np.uint8]],
    *,
    name: str,
    fps: float | None,
    stride: int | None,
    keep: bool = True,
    spill_dir: Path | None = None,
    pi3_area_px: int = PI3_AREA_PX,
    patch_px: int = PI3_PATCH_PX,
) -> SequenceInput:
    """An input made of frames; the first one is taken at once, to see its size.

    Args:
        frames: (H, W, 3) uint8 RGB each, all of one size. What can be gone through only once (a generator) is
            kept in a temporary file as it passes, so that overlays can be drawn later.
        name: of the results.
        fps: frames per second.
        stride: frames between neighbours of a window; by default it follows from `fps`.
        keep: False: frames that can be gone through once are not kept, and only read once.
        spill_dir: directory of the temporary file; None: the system's.
        pi3_area_px: area budget of a Pi3 frame in pixels.
        patch_px: side of a Pi3 patch in pixels.

    Raises:
        GmosError: neither `fps` nor `stride` is given, or there is no first frame, or it is none.
    """
    if fps is None and stride is None:
        raise GmosError("frames of an iterable have no frame rate; expected fps= (of the video) or stride=")
    iterator = iter(frames)
    try:
        first = next(iterator)
    except StopIteration:
        raise GmosError("the iterable of frames is empty; expected at least one frame") from None
    height, width = checked(first, 0, None).shape[:2]
    pi3_size_wh(width, height, pi3_area_px, patch_px)
    video_hw = (height, width)
    once = iterator is frames
    source = (
        PassedOnce(chain([first], iterator), video_hw, keep=keep, spill_dir=spill_dir) if once else frames
    )
    return even_sequence(
        lambda: (checked(frame, index, video_hw) for index, frame in enumerate(source)),
        fps=fps,
        stride=stride,
        name=name,
        path=Path(name),
        kind=KIND,
        video_hw=video_hw,
        frame_count_estimate=len(frames) if isinstance(frames, Sized) else None,
    )


def checked(frame: object, index: int, video_hw: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A frame as it must be, C-contiguous; of the size of those before it.

    Raises:
        GmosError: it is not (H, W, 3) uint8, or of another size.
    """
    if not isinstance(frame, np.ndarray):
        raise GmosError(
            f"frame {index} is a {type(frame).__name__}; expected a NumPy array (H, W, 3) uint8, RGB"
        )
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise GmosError(f"frame {index} is {frame.shape} {frame.dtype}; expected (H, W, 3) uint8, RGB")
    if video_hw is not None and frame.shape[:2] != video_hw:
        raise GmosError(
            f"frame {index} is {frame.shape[1]}x{frame.shape[0]} pixels and the frames before it are "
            f"{video_hw[1]}x{video_hw[0]}; expected one size"
        )
    return np.ascontiguousarray(frame)


class PassedOnce:
    """Frames that can be had once, kept in a file as they pass; later passes read the file."""

    def __init__(
        self,
        frames: Iterator[NDArray[np.uint8]],
        video_hw: tuple[int, int],
        *,
        keep: bool,
        spill_dir: Path | None,
    ) -> None:
        self._frames: Iterator[NDArray[np.uint8]] | None = frames
        self._video_hw = video_hw
        self._keep = keep
        self._kept = 0
        self._file = SpillFile(
            spill_dir,
            content="frames of the video",
            advice="name another place with spill_dir=, or give keep_frames=False: overlays cannot be drawn then",
        )

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        if self._frames is not None:
            fresh, self._frames = self._frames, None
            return self._pass(fresh)
        if not self._keep:
            raise GmosError(
                "the frames were an iterator, which has been used up; expected a list or an array of frames, or "
                "keep_frames=True"
            )
        return (self._frame(index) for index in range(self._kept))

    def _pass(self, frames: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        for index, frame in enumerate(frames):
            if self._keep:
                self._file.append(checked(frame, index, self._video_hw).tobytes())
                self._kept += 1
            yield frame

    def _frame(self, index: int) -> NDArray[np.uint8]:
        shape = (*self._video_hw, 3)
        size = int(np.prod(shape))
        return np.array(self._file.read(index * size, size)).reshape(shape)
