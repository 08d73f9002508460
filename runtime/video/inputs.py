"""Checks everything about the inputs before any other work starts."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from ...errors import GmosError
from ..pi3_frame import PI3_AREA_PX, PI3_PATCH_PX, pi3_size_wh
from .frame_directory import FRAME_SUFFIXES, check_frames, list_frames
from .mp4_boxes import check_mp4_complete
from .reader import VideoReader
from .sequence import InputKind, RateSource, SequenceInput
from .windows import stride_for_fps

DEFAULT_OUTPUT_FPS = 24.0
"""Frames per second of an overlay whose input has no rate of its own (published implementation)."""
NAME_LIMIT_BYTES = 240
"""Longest sequence name: a file name may have 255 bytes, and results add endings to it."""
TIME_BASE_LIMIT = 1_000_000
"""Largest denominator of a frame duration; enough to recover 1001/60000 from a decimal."""


def resolve_inputs(
    paths: Sequence[Path],
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
        paths: .mp4 files, or directories of JPEG or PNG frames, not both.
        fps: frames per second, --fps. It never changes the output rate of a video that has its own.
        stride: frames between neighbours of a window, --stride.
        names: sequence names, where the paths' own are not those of the results.
        pi3_area_px: area budget of a Pi3 frame in pixels.
        patch_px: side of a Pi3 patch in pixels.

    Raises:
        GmosError: the first thing found that cannot be used.
    """
    if not paths:
        raise GmosError("no input was given; expected .mp4 files or directories of frames after --input-rgb")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise GmosError(f"--fps {fps}: expected a positive number of frames per second")
    if stride is not None and stride < 1:
        raise GmosError(f"--stride {stride}: expected a whole number of frames, at least 1")
    kinds = [_kind(path) for path in paths]
    _refuse_mixed(paths, kinds)
    if names is None:
        names = [_sequence_name(path, kind) for path, kind in zip(paths, kinds, strict=True)]
    _refuse_repeated(paths, names)
    if kinds[0] == "directory" and fps is None and stride is None:
        raise GmosError(
            f"{paths[0]} is a directory of frames, which has no frame rate; expected --fps (of the original "
            f"video) or --stride"
        )
    resolved = []
    for path, name, kind in zip(paths, names, kinds, strict=True):
        resolve = _resolve_video if kind == "video" else _resolve_directory
        try:
            sequence = resolve(path, name, fps, stride)
        except OSError as error:
            raise _unreadable(path, error) from error
        height, width = sequence.video_hw
        try:
            pi3_size_wh(width, height, pi3_area_px, patch_px)
        except GmosError as error:
            raise GmosError(f"{path}: {error}") from error
        resolved.append(sequence)
    return resolved


def _kind(path: Path) -> InputKind:
    try:
        if path.is_dir():
            return "directory"
        is_file, exists = path.is_file(), path.exists()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not exists:
        raise GmosError(f"{path} does not exist; expected an .mp4 file or a directory of frames")
    if not is_file:
        raise GmosError(f"{path} is neither a file nor a directory; expected an .mp4 file")
    suffix = path.suffix.lower()
    if suffix in FRAME_SUFFIXES:
        raise GmosError(f"{path} is a single image; expected its directory {path.parent}, or an .mp4 file")
    if suffix != ".mp4":
        raise GmosError(
            f"{path} is not an .mp4 file; expected .mp4 or a directory of frames; convert it, for instance "
            f"with ffmpeg"
        )
    return "video"


def _refuse_mixed(paths: Sequence[Path], kinds: Sequence[InputKind]) -> None:
    if "video" in kinds and "directory" in kinds:
        video, directory = paths[kinds.index("video")], paths[kinds.index("directory")]
        raise GmosError(
            f"{video} is a video and {directory} is a directory; expected inputs of one kind; "
            f"run them separately"
        )


def _sequence_name(path: Path, kind: InputKind) -> str:
    """The file name without its ending, or the real name of the directory (`.` included)."""
    name = path.stem if kind == "video" else path.resolve().name if path.name in ("", "..") else path.name
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise GmosError(f"{path!a} has a name that is not valid UTF-8; rename it") from error
    if name in ("", ".", "..") or any(unicodedata.category(letter) == "Cc" for letter in name):
        raise GmosError(f"{path!a} has a name that results cannot be filed under; rename it")
    if length > NAME_LIMIT_BYTES:
        raise GmosError(
            f"{path} has a name of {length} bytes; expected at most {NAME_LIMIT_BYTES}; rename it"
        )
    return name


def _refuse_repeated(paths: Sequence[Path], names: Sequence[str]) -> None:
    seen: dict[str, Path] = {}
    for path, name in zip(paths, names, strict=True):
        if name in seen:
            raise GmosError(
                f"{seen[name]} and {path} are both sequence {name!r} and would overwrite each other; "
                f"rename one or run them with different --save-dir"
            )
        seen[name] = path


def _resolve_video(path: Path, name: str, fps: float | None, stride: int | None) -> SequenceInput:
    check_mp4_complete(path)
    with VideoReader(path) as reader:
        own_fps, time_base_s, estimate = reader.average_rate, reader.time_base_s, reader.frame_count_estimate
        height, width = reader.first_frame().rgb.shape[:2]
    if own_fps is None and fps is None and stride is None:
        raise GmosError(f"{path} states no frame rate; expected --fps (of the original video) or --stride")
    notes: tuple[str, ...] = ()
    if own_fps is None and fps is None:
        notes = (f"{path} states no frame rate: overlays play at {DEFAULT_OUTPUT_FPS:g} frames per second",)
    resolved_stride, stride_source = _stride(fps, stride, own_fps)
    return SequenceInput(
        name=name,
        path=path,
        kind="video",
        video_hw=(height, width),
        stride=resolved_stride,
        stride_source=stride_source,
        output_fps=float(own_fps or fps or DEFAULT_OUTPUT_FPS),
        time_base_s=time_base_s,
        frame_count_estimate=estimate,
        notes=notes,
    )


def _resolve_directory(path: Path, name: str, fps: float | None, stride: int | None) -> SequenceInput:
    frame_paths = list_frames(path)
    video_hw, notes = check_frames(frame_paths)
    resolved_stride, stride_source = _stride(fps, stride, None)
    output_fps = fps or DEFAULT_OUTPUT_FPS
    return SequenceInput(
        name=name,
        path=path,
        kind="directory",
        video_hw=video_hw,
        stride=resolved_stride,
        stride_source=stride_source,
        output_fps=output_fps,
        time_base_s=1 / Fraction(output_fps).limit_denominator(TIME_BASE_LIMIT),
        frame_count_estimate=len(frame_paths),
        frame_paths=frame_paths,
        notes=notes,
    )


def _stride(fps: float | None, stride: int | None, own_fps: Fraction | None) -> tuple[int, RateSource]:
    """Stride in frames and what decided it: --stride before --fps before the file's own rate."""
    if stride is not None:
        return stride, "--stride"
    if fps is not None:
        return stride_for_fps(fps), "--fps"
    if own_fps is not None:
        return stride_for_fps(float(own_fps)), "file"
    raise RuntimeError("no frame rate: the caller checks for one")


def _unreadable(path: Path, error: OSError) -> GmosError:
    return GmosError(f"{path} cannot be read: {error.strerror}; expected a readable input")
