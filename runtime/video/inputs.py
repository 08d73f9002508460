"""Checks everything about the inputs before any other work starts."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Sequence

from ...errors import GmosError
from ..pi3_frame import PI3_AREA_PX, PI3_PATCH_PX, pi3_size_wh
from .sequence import SequenceInput
from .sources import Source, source_of, unreadable

NAME_LIMIT_BYTES = 240
"""Longest sequence name: a file name may have 255 bytes, and results add endings to it."""

Given = str | os.PathLike[str]


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

    For every video the first frame is decoded, for every directory all headers are read. The stride
    is `stride` if given, else follows from `fps` if given, else from the video's own average rate.

    Args:
        given: inputs of one kind that is in `sources.SOURCES`: .mp4 files, or directories of frames.
        fps: frames per second, --fps. It never changes the output rate of a video that has its own.
        stride: frames between neighbours of a window, --stride.
        names: sequence names, where the inputs' own are not those of the results.
        pi3_area_px: area budget of a Pi3 frame in pixels.
        patch_px: side of a Pi3 patch in pixels.

    Raises:
        GmosError: the first thing found that cannot be used.
    """
    if not given:
        raise GmosError("no input was given; expected .mp4 files or directories of frames after --input-rgb")
    check_rate(fps, stride)
    inputs = [os.fspath(one) for one in given]
    sources = [source_of(one) for one in inputs]
    _refuse_mixed(inputs, sources)
    if names is None:
        names = [
            sequence_name(one, source.sequence_name(one)) for one, source in zip(inputs, sources, strict=True)
        ]
    _refuse_repeated(inputs, names)
    source = sources[0]
    if source.needs_rate and fps is None and stride is None:
        raise GmosError(
            f"{inputs[0]} is {source.article} of frames, which has no frame rate; expected --fps (of the original "
            f"video) or --stride"
        )
    resolved = []
    for one, name in zip(inputs, names, strict=True):
        try:
            sequence = source.resolve(one, name=name, fps=fps, stride=stride)
        except OSError as error:
            raise unreadable(one, error) from error
        height, width = sequence.video_hw
        try:
            pi3_size_wh(width, height, pi3_area_px, patch_px)
        except GmosError as error:
            raise GmosError(f"{one}: {error}") from error
        resolved.append(sequence)
    return resolved


def check_rate(fps: float | None, stride: int | None) -> None:
    """Refuse a frame rate or a stride that cannot be one.

    Raises:
        GmosError: `fps` is not a positive number, or `stride` is below 1.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise GmosError(f"--fps {fps}: expected a positive number of frames per second")
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
