"""What writers of results know of a video."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """`video_hw` height and width in pixels; `fps` frames per second of overlays.

    `time_base_s` is the unit of frame times in seconds; None: one frame.
    """

    video_hw: tuple[int, int]
    fps: float
    time_base_s: Fraction | None = None
