"""Directories of frames as inputs."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path

from .frame_directory import DirectoryReader, check_frames, list_frames
from .sequence import SequenceInput
from .windows import DEFAULT_OUTPUT_FPS, TIME_BASE_LIMIT, resolve_stride


class DirectorySource:
    """Directories of JPEG or PNG frames."""

    kind = "directory"
    article = "a directory"
    needs_rate = True

    def takes(self, given: str) -> bool:
        """See `sources.Source`."""
        return Path(given).is_dir()

    def sequence_name(self, given: str) -> str:
        """The directory's real name, `.` included."""
        path = Path(given)
        return path.resolve().name if path.name in ("", "..") else path.name

    def resolve(self, given: str, *, name: str, fps: float | None, stride: int | None) -> SequenceInput:
        """See `sources.Source`; reads the headers of all frames."""
        path = Path(given)
        frame_paths = list_frames(path)
        video_hw, notes = check_frames(frame_paths)
        resolved_stride, stride_source = resolve_stride(fps, stride, None)
        output_fps = fps or DEFAULT_OUTPUT_FPS
        return SequenceInput(
            name=name,
            path=path,
            kind=self.kind,
            open=partial(DirectoryReader, frame_paths, fps=output_fps, video_hw=video_hw),
            video_hw=video_hw,
            stride=resolved_stride,
            stride_source=stride_source,
            output_fps=output_fps,
            time_base_s=1 / Fraction(output_fps).limit_denominator(TIME_BASE_LIMIT),
            frame_count_estimate=len(frame_paths),
            frame_paths=frame_paths,
            notes=notes,
        )
