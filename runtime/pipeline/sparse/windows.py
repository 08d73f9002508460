"""Geometry of the frames that are asked for; tokens are computed once, when a window first needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array
from ...backend import Backend
from ...video.sequence import window_indices
from ..encode import FrameTokens, Pi3

Pixels = Callable[[int], NDArray[np.uint8]]
"""A frame by its index as Pi3 sees it, (3, Hp, Wp) uint8."""


class Windows:
    """Tokens and geometry of single frames.

    `stride` is the window's, in frames; no network sees more than `batch_size` frames or windows in a call.
    `on_decoded` is called with the number of windows that were decoded.
    """

    def __init__(
        self, backend: Backend, *, stride: int, batch_size: int, on_decoded: Callable[[int], None]
    ) -> None:
        self.backend = backend
        self.batch_size = batch_size
        self._arrays = backend.arrays
        self._stride = stride
        self._on_decoded = on_decoded
        self._window = backend.model.window
        self._pi3 = Pi3(backend)
        self._tokens: dict[int, FrameTokens] = {}
        self.changes: list[float] = []
        """Every answer of `change`, in order."""

    def geometry(self, frames: Sequence[int], count: int, pixels: Pixels) -> dict[int, Array]:
        """The geometry of frames, (h, w, C) each, of a video of which `count` frames are known.

        Frames beyond the last known one are taken for it, as at the end of a video.
        """
        windows = {
            frame: window_indices(frame, count, self._stride, self._window) for frame in dict.fromkeys(frames)
        }
        self.compute_tokens((index for window in windows.values() for index in window), pixels)
        found: dict[int, Array] = {}
        for part in in_parts(list(windows), self.batch_size):
            geometry = self._pi3.geometry(
                [[self._tokens[index] for index in windows[frame]] for frame in part]
            )
            found |= zip(part, self._arrays.unstack(geometry), strict=True)
            self._on_decoded(len(part))
        return found

    def compute_tokens(self, frames: Iterable[int], pixels: Pixels) -> None:
        """Compute the tokens of frames that have none yet."""
        missing = sorted({frame for frame in frames if frame not in self._tokens})
        for part in in_parts(missing, self.batch_size):
            self._tokens |= zip(part, self._pi3.tokens([pixels(frame) for frame in part]), strict=True)

    def change(self, first: int, last: int, pixels: Pixels) -> float:
        """How much the tokens of two frames differ: the mean length of the differences as a share of theirs."""
        self.compute_tokens((first, last), pixels)
        ends = (self._tokens[frame]["tokens"] for frame in (first, last))
        a, b = (self._arrays.download(tokens).astype(np.float32) for tokens in ends)
        size = float(np.linalg.norm(a, axis=-1).mean())
        self.changes.append(float(np.linalg.norm(b - a, axis=-1).mean()) / size if size else 0.0)
        return self.changes[-1]

    def forget(self, before: int) -> None:
        """Drop the tokens of earlier frames."""
        for frame in [one for one in self._tokens if one < before]:
            del self._tokens[frame]


def in_parts(frames: Sequence[int], size: int) -> list[Sequence[int]]:
    """Frames in parts of that size; the last one may be smaller."""
    return [frames[start : start + size] for start in range(0, len(frames), size)]
