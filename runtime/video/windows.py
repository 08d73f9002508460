"""Which frames the window around each frame holds."""

from __future__ import annotations

import math
from fractions import Fraction

from ...errors import GmosError

WINDOW_RATE_FPS = 8
"""Frames of a window are about 1/8 s apart (published implementation)."""


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


def resolve_stride(fps: float | None, stride: int | None, own_fps: Fraction | None) -> int:
    """Stride in frames: --stride before --fps before the file's own rate."""
    if stride is not None:
        return stride
    rate = fps if fps is not None else own_fps
    if rate is None:
        raise RuntimeError("no frame rate: the caller checks for one")
    return stride_for_fps(float(rate))
