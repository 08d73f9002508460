"""Decoded pictures as RGB, the way up that they are shown: files and streams alike."""

from __future__ import annotations

import struct

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from ...errors import GmosError
from .stream_facts import BT2020_CONSTANT

SWSCALE_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, BT2020_CONSTANT: 9}
"""H.273 matrix coefficients (code on a frame) to swscale's constants; unspecified means BT.601."""
SWSCALE_BT601 = 5
RGB_MATRIX = 0
"""H.273 code of frames that are stored as RGB: there is no matrix to apply."""

Signs = tuple[int, int, int, int]
"""A display matrix without its offsets, as signs (a, b, c, d)."""


def rgb_of(frame: VideoFrame) -> NDArray[np.uint8]:
    """A decoded picture as (H, W, 3) uint8 RGB, with the matrix and the range that it states.

    Raises:
        av.FFmpegError: its pixels cannot be converted.
        ValueError: the same.
    """
    # PyAV before 17 ignores the matrix a stream states unless it is told, and with it the range:
    # colours shift by up to 20. Naming it on both sides gives the same pixels in PyAV 14 to 18.
    if frame.colorspace == RGB_MATRIX:
        rgb = frame.reformat(format="rgb24")
    else:
        matrix = SWSCALE_MATRICES.get(frame.colorspace, SWSCALE_BT601)
        rgb = frame.reformat(
            format="rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=frame.color_range,
        )
    return np.ascontiguousarray(rgb.to_ndarray(), dtype=np.uint8)


def display_matrix(frame: VideoFrame, source: object) -> Signs:
    """How a picture asks to be turned and mirrored.

    Args:
        frame: as it was decoded.
        source: what it is of, for the message.

    Raises:
        GmosError: by an angle that is not a right one.
    """
    raw = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(raw, SideData):
        return (1, 0, 0, 1)
    # Native byte order, 16.16 fixed point, rows (a b u) (c d v) (x y w).
    a, b, _, c, d = struct.unpack("=5i", bytes(raw)[:20])
    if not ((b == c == 0 and a and d) or (a == d == 0 and b and c)):
        raise GmosError(
            f"{source} asks to be turned by an angle that is not a multiple of 90 degrees; "
            f"re-encode it upright, for instance with ffmpeg"
        )
    return _sign(a), _sign(b), _sign(c), _sign(d)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def oriented(rgb: NDArray[np.uint8], matrix: Signs) -> NDArray[np.uint8]:
    """Turn and mirror (H, W, 3) by the signs (a, b, c, d) of a display matrix.

    A pixel at (x, y), x to the right and y down, is shown at (a x + c y, b x + d y).
    """
    a, b, c, d = matrix
    if a:
        return np.ascontiguousarray(rgb[::d, ::a])
    return np.ascontiguousarray(rgb.transpose(1, 0, 2)[::b, ::c])
