"""Trials: levers that were tried on videos, how long they took, and how their masks agree with the exact run's."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..runtime.bundle.recipe import RecipeAgreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How one result of a video agrees with the exact run's, as IoU: the mean over its frames, and the worst one."""

    result: str
    mean_iou: float
    worst_frame_iou: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoTrial:
    """One video of a trial. `seconds` of the pipeline, without decoding ahead and writing.

    `decoded` and `proposed` frames as `ClipSummary` counts them. `changes` of tokens over the gaps of geometry, where
    they were asked for. `prompts` of the first pass, `memories` conditioning ones of an object in the second at most,
    `moving` frames.
    """

    video: str
    frames: int
    seconds: float
    scores: tuple[Score, ...]
    decoded: int | None = None
    proposed: int | None = None
    changes: tuple[float, ...] = ()
    prompts: int | None = None
    memories: int | None = None
    moving: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Levers by name, and what came of them on every video. `took_s` is all that the trial took."""

    levers: Mapping[str, Any]
    videos: tuple[VideoTrial, ...]
    took_s: float = field(compare=False)

    @property
    def frames(self) -> int:
        """Of all videos."""
        return sum(video.frames for video in self.videos)

    @property
    def frame_s(self) -> float:
        """Seconds a frame, over all videos."""
        return sum(video.seconds for video in self.videos) / self.frames

    @property
    def worst(self) -> float:
        """The mean IoU of the result of a video that agrees least."""
        return min((score.mean_iou for video in self.videos for score in video.scores), default=1.0)

    def holds(self, target: float) -> bool:
        """Whether every result of every video has at least this mean IoU."""
        return self.worst >= target

    def share(self, count: str) -> float | None:
        """Frames that were `decoded` or `proposed` as a share of all; None where all were."""
        counts = [getattr(video, count) for video in self.videos]
        return None if None in counts else sum(counts) / self.frames


def agreements(trials: Iterable[VideoTrial]) -> tuple[RecipeAgreement, ...]:
    """Per result the mean over videos, and the worst video."""
    by_result: dict[str, dict[str, float]] = {}
    for video in trials:
        for score in video.scores:
            by_result.setdefault(score.result, {})[video.video] = score.mean_iou
    return tuple(
        RecipeAgreement(
            result=result,
            mean=statistics.fmean(found.values()),
            worst=min(found.values()),
            worst_video=min(found, key=lambda video: found[video]),
        )
        for result, found in by_result.items()
    )
