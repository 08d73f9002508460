"""What a video file says of the stream that is decoded, and what in it deserves a remark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median

from .sequence import shown_rate, stride_for_fps

MATRICES = {
    0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco", 9: "bt2020nc",
    10: "bt2020c",
}  # fmt: skip
"""H.273 matrix coefficients by their names in FFmpeg."""
BT2020_CONSTANT = 10
RANGES = {1: "limited", 2: "full"}
TURNS = {
    (1, 0, 0, 1): "0", (0, 1, -1, 0): "90", (-1, 0, 0, -1): "180", (0, -1, 1, 0): "270",
    (-1, 0, 0, 1): "0 mirrored", (0, -1, -1, 0): "90 mirrored", (1, 0, 0, -1): "180 mirrored",
    (0, 1, 1, 0): "270 mirrored",
}  # fmt: skip
"""Degrees clockwise by signs of a display matrix; a mirrored one is turned first and mirrored left to right then."""

PLAUSIBLE_FPS = 1000.0
"""Rates above it are a matter of a wrong last duration, unless the frames are that close."""
RATE_SLACK = 0.02
"""Share by which the average may differ from the usual interval without a word: dropped frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """A video stream as its file states it.

    `container` and `codec` are FFmpeg's names, `stream` is the index in the file, `video_streams` how many there are.
    `rate_fps` is the average rate as ffmpeg shows it, None where there is none. `rotation` is in degrees clockwise,
    with "mirrored" where it is. `pixel_aspect` is width to height as shown, "1:1" where the file states none. `matrix`
    and `range` are "unspecified" where the file does not tell; BT.601 and limited are taken then. `sound` is the codec
    of the sound, None without any.
    """

    container: str
    codec: str
    pixel_format: str
    stream: int
    video_streams: int
    rate_fps: float | None
    rotation: str
    pixel_aspect: str
    matrix: str
    range: str
    sound: str | None

    def line(self) -> str:
        """For people."""
        parts = [
            f"stream {self.stream} of {self.container.split(',', 1)[0]}",
            self.codec,
            self.pixel_format,
            "no rate" if self.rate_fps is None else f"{self.rate_fps:g} fps",
        ]
        if self.rotation != "0":
            parts.append(f"turned {self.rotation}")
        if self.pixel_aspect != "1:1":
            parts.append(f"pixels {self.pixel_aspect}")
        parts.append(f"colours {self.matrix}, range {self.range}")
        return ", ".join([*parts, f"sound {self.sound}"] if self.sound else parts)


def rate_note(rate: Fraction | None, times: Sequence[Fraction]) -> str | None:
    """A remark where a file's average rate is far from what lies between its frames.

    Args:
        rate: frames per second, None where the file states none.
        times: of the first frames, in seconds.
    """
    if rate is None:
        return None
    gaps = [after - before for before, after in pairwise(sorted(set(times)))]
    shown = shown_rate(rate)
    if not gaps:
        if shown <= PLAUSIBLE_FPS:
            return None
        return f"the file states {shown:g} frames per second, which no camera has; give --fps"
    usual = float(1 / median(gaps))
    if abs(usual - shown) <= RATE_SLACK * usual:
        return None
    strides = f"{stride_for_fps(shown)} frames, with --fps {usual:.2f} it is {stride_for_fps(usual)}"
    return (
        f"the file's average rate is {shown:g} frames per second and its usual interval that of {usual:.2f}; the "
        f"stride follows the average ({strides})"
    )
