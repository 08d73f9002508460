"""From prepared frames to encoder outputs with geometry on some of them: computed, or interpolated."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array
from ...levers import DENSE_FRAMES, Levers
from ..encode import EncodedBatch, PreparedFrame
from .windows import Windows


class SparseEncoder:
    """As `encode.WindowEncoder`, with `levers`.

    Every frame goes through SAM2, and through DINO only if a window holds it. A frame waits until the window of the
    next frame whose geometry is computed is complete, which is up to `geometry_every` - 1 frames longer.
    """

    def __init__(self, windows: Windows, *, stride: int, levers: Levers) -> None:
        backend = windows.backend
        self._windows = windows
        self._arrays = backend.arrays
        self._batch_size = windows.batch_size
        self._levers = levers
        self._reach = backend.model.window // 2 * stride
        self._resize = backend.runner("sam2_resize")
        self._sam2 = backend.runner("sam2_encoder")
        self._pi3: dict[int, NDArray[np.uint8]] = {}
        self._geometry: dict[int, Array] = {}
        self._changed: dict[int, bool] = {}
        self._waiting: deque[PreparedFrame] = deque()
        self._seen = 0
        self._ended = False

    def run(self, frames: Iterable[PreparedFrame]) -> Iterator[EncodedBatch]:
        """Batches in frame order; the last one may be smaller."""
        for frame in frames:
            self._pi3[frame.index] = frame.pi3_rgb
            self._waiting.append(frame)
            self._seen += 1
            while self._batch_is_complete():
                yield self._encode(self._batch_size)
        self._ended = True
        while self._waiting:
            yield self._encode(min(self._batch_size, len(self._waiting)))
        self._windows.forget(self._seen)

    def _wanted(self, index: int) -> bool:
        """Whether a frame gets geometry."""
        return index < DENSE_FRAMES or index % self._levers.propose_every == 0

    def _ends(self, index: int) -> tuple[int, int]:
        """The frames with geometry of their own that a frame lies between; twice itself if it is one."""
        before = index - index % self._levers.geometry_every
        after = index if before == index else before + self._levers.geometry_every
        if self._ended and after >= self._seen:
            after = self._seen - 1
        return (index, index) if after == index else (before, after)

    def _batch_is_complete(self) -> bool:
        """Whether the next whole batch would not change with frames that are still to come."""
        if len(self._waiting) < self._batch_size:
            return False
        batch = (self._waiting[position].index for position in range(self._batch_size))
        last = max((self._ends(index)[1] for index in batch if self._wanted(index)), default=-1)
        return last < 0 or last + self._reach < self._seen

    def _encode(self, count: int) -> EncodedBatch:
        frames = [self._waiting.popleft() for _ in range(count)]
        chosen = [position for position, frame in enumerate(frames) if self._wanted(frame.index)]
        geometry = self._geometry_of([frames[position].index for position in chosen])
        video = self._arrays.upload(np.stack([frame.rgb for frame in frames]))
        features = self._sam2(self._resize({"frames": video}))
        self._forget(frames[-1].index + 1)
        return EncodedBatch(
            frames=frames,
            geometry=self._arrays.stack(geometry) if geometry else None,
            features=features,
            chosen=None if len(chosen) == len(frames) else tuple(chosen),
        )

    def _geometry_of(self, frames: Sequence[int]) -> list[Array]:
        """The geometry of frames in order, computed where it is not interpolated."""
        ends = {frame: self._ends(frame) for frame in frames}
        ends |= {frame: (frame, frame) for frame, gap in ends.items() if self._is_changed(*gap)}
        needed = {end for gap in ends.values() for end in gap}
        missing = sorted(needed - self._geometry.keys())
        self._geometry |= self._windows.geometry(missing, self._seen, self._pi3.__getitem__)
        inside: dict[tuple[int, int], list[int]] = {}
        for frame, gap in ends.items():
            if gap[0] != gap[1]:
                inside.setdefault(gap, []).append(frame)
        found = {frame: self._geometry[frame] for frame in frames if frame in needed}
        for (first, last), between in inside.items():
            shares = [(frame - first) / (last - first) for frame in between]
            ways = self._arrays.between(self._geometry[first], self._geometry[last], shares)
            found |= zip(between, ways, strict=True)
        return [found[frame] for frame in frames]

    def _is_changed(self, first: int, last: int) -> bool:
        """Whether too much changes between two frames for what lies between to be interpolated."""
        limit = self._levers.geometry_change
        if limit is None or first == last:
            return False
        if first not in self._changed:
            self._changed[first] = self._windows.change(first, last, self._pi3.__getitem__) > limit
        return self._changed[first]

    def _forget(self, following: int) -> None:
        """Drop what no frame from the following one on can need."""
        first = following - following % self._levers.geometry_every
        kept: tuple[dict[int, Array], ...] = (self._geometry, self._changed)
        for known in kept:
            for index in [one for one in known if one < first]:
                del known[index]
        for index in [one for one in self._pi3 if one < first - self._reach]:
            del self._pi3[index]
        self._windows.forget(first - self._reach)
