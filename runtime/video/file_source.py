"""Video files as inputs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...errors import GmosError
from .frame_directory import FRAME_SUFFIXES
from .mp4_boxes import check_mp4_complete
from .reader import VideoReader
from .sequence import SequenceInput
from .windows import DEFAULT_OUTPUT_FPS, resolve_stride


class FileSource:
    """.mp4 files."""

    kind = "video"
    article = "a video"
    needs_rate = False

    def takes(self, given: str) -> bool:
        """See `sources.Source`."""
        path = Path(given)
        if not path.is_file():
            return False
        suffix = path.suffix.lower()
        if suffix in FRAME_SUFFIXES:
            raise GmosError(
                f"{path} is a single image; expected its directory {path.parent}, or an .mp4 file"
            )
        if suffix != ".mp4":
            raise GmosError(
                f"{path} is not an .mp4 file; expected .mp4 or a directory of frames; convert it, for instance "
                f"with ffmpeg"
            )
        return True

    def sequence_name(self, given: str) -> str:
        """The file name without its ending."""
        return Path(given).stem

    def resolve(self, given: str, *, name: str, fps: float | None, stride: int | None) -> SequenceInput:
        """See `sources.Source`; decodes the first frame."""
        path = Path(given)
        check_mp4_complete(path)
        with VideoReader(path) as reader:
            own_fps, time_base_s, estimate = (
                reader.average_rate,
                reader.time_base_s,
                reader.frame_count_estimate,
            )
            height, width = reader.first_frame().rgb.shape[:2]
        if own_fps is None and fps is None and stride is None:
            raise GmosError(
                f"{path} states no frame rate; expected --fps (of the original video) or --stride"
            )
        notes: tuple[str, ...] = ()
        if own_fps is None and fps is None:
            notes = (
                f"{path} states no frame rate: overlays play at {DEFAULT_OUTPUT_FPS:g} frames per second",
            )
        resolved_stride, stride_source = resolve_stride(fps, stride, own_fps)
        return SequenceInput(
            name=name,
            path=path,
            kind=self.kind,
            open=partial(VideoReader, path),
            video_hw=(height, width),
            stride=resolved_stride,
            stride_source=stride_source,
            output_fps=float(own_fps or fps or DEFAULT_OUTPUT_FPS),
            time_base_s=time_base_s,
            frame_count_estimate=estimate,
            notes=notes,
        )
