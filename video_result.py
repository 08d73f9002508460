"""What a video was segmented into: its answers, and the files that can be made of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from .arguments import tells_arguments
from .runtime.contract import Variant
from .runtime.files.made_from import MadeFrom
from .runtime.frame_result import FrameResult
from .runtime.pipeline.clip import ClipSummary, with_frames
from .runtime.video.sequence import SequenceInput

if TYPE_CHECKING:
    from .runtime.media import OverlayStyle
    from .runtime.results.completion import Existing


class VideoResult(Sequence[FrameResult]):
    """The answers on all frames of one video, in order; label maps stay compact until they are asked for.

    Attributes:
        name: of its results.
        fps: frames per second of overlays.
        stride: frames between neighbours of a window.
        video_hw: height and width in pixels.
        variant: "gmos" or "gmos-s".
        summary: numbers of frames and objects, seconds by stage, remarks.
    """

    def __init__(
        self,
        *,
        frames: Sequence[FrameResult],
        sequence: SequenceInput,
        summary: ClipSummary,
        variant: Variant,
        settings: dict[str, Any],
        made_from: MadeFrom,
    ) -> None:
        self.name = sequence.name
        self.fps = sequence.output_fps
        self.stride = sequence.stride
        self.video_hw = sequence.video_hw
        self.variant: Variant = variant
        self.summary = summary
        self._frames = frames
        self._sequence = sequence
        self._settings = settings
        self._made_from = made_from

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> FrameResult: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[FrameResult]: ...

    def __getitem__(self, index: int | slice) -> FrameResult | Sequence[FrameResult]:
        return self._frames[index]

    def __repr__(self) -> str:
        height, width = self.video_hw
        return (
            f"<gmos_deploy.VideoResult {self.name}: {len(self)} frames of {width}x{height}, {self.variant}>"
        )

    @tells_arguments
    def save(
        self,
        save_dir: str | os.PathLike[str],
        save_mode: str | None = None,
        *,
        existing: Existing = "error",
        overlay: OverlayStyle = "labelled",
    ) -> list[Path]:
        """Write the files that `gmos-run` writes; overlays read the video once more.

        Args:
            save_dir: output place, made if it is not there.
            save_mode: "mask", "mp4", "prob", "tracks", "coco", "ytvis", "yolo", "npz", or several joined by +; by
                default "mask", or "prob" of GMOS-S.
            existing: what to do about results that are there: "error", "resume" (keep finished ones of the same
                settings) or "overwrite".
            overlay: how overlays are drawn: "labelled", or "published".

        Returns:
            Paths of the results.

        Raises:
            GmosError: the place cannot be used, or the video has changed since.
        """
        # Imported here: encoders are needed only by those who save.
        from .runtime.results.completion import ResultSet, should_skip  # noqa: PLC0415
        from .runtime.results.formats import drawing_settings, needs_rgb, parse_save_mode  # noqa: PLC0415
        from .runtime.results.outputs import check_save_dir, file_results  # noqa: PLC0415

        modes = parse_save_mode(save_mode, self.variant)
        results = ResultSet(
            save_dir=Path(save_dir),
            sequence=self.name,
            variant=self.variant,
            modes=modes,
            settings=self._settings | drawing_settings(modes, overlay),
            not_finite=self.summary.not_finite,
            made_from=self._made_from,
        )
        if should_skip(results, existing):
            return results.paths()
        check_save_dir(results.save_dir)
        sequence = self._sequence
        answers = (
            with_frames(self._frames, len(self), sequence)
            if needs_rgb(results.modes)
            else (answer for answer in self._frames)
        )
        return file_results(answers, results, replace(sequence.media, overlay=overlay), existing=existing)
