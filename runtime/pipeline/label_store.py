"""Label maps of a whole video, compressed in memory: a few kilobytes a frame instead of its pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..frame_result import CompactMap
from ..label_lookup import look_up


class LabelStore:
    """`frames` label maps (H, W) uint8, readable and writable by frame; unwritten ones are all 0."""

    def __init__(self, frames: int, video_hw: tuple[int, int]) -> None:
        self.video_hw = video_hw
        self._maps = [CompactMap(None, video_hw)] * frames

    @classmethod
    def of(cls, maps: Sequence[CompactMap], video_hw: tuple[int, int]) -> LabelStore:
        """Maps as `compact` gave them."""
        store = cls(0, video_hw)
        store._maps = list(maps)
        return store

    def __len__(self) -> int:
        return len(self._maps)

    def append(self, labels: NDArray[np.uint8]) -> None:
        """Add a frame at the end."""
        self._maps.append(CompactMap(None, self.video_hw))
        self[len(self._maps) - 1] = labels

    def __setitem__(self, frame: int, labels: NDArray[np.uint8]) -> None:
        if labels.shape != self.video_hw or labels.dtype != np.uint8:
            raise ValueError(
                f"label map {labels.shape} {labels.dtype}: expected {self.video_hw} uint8 for frame {frame}"
            )
        self._maps[frame] = CompactMap.of(labels)

    def __getitem__(self, frame: int) -> NDArray[np.uint8]:
        return self._maps[frame].unpack()

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[frame] for frame in range(len(self)))

    def compact(self, frame: int) -> CompactMap:
        """A frame's map as it is kept."""
        return self._maps[frame]

    def remap(self, table: NDArray[np.uint8]) -> LabelStore:
        """A new store whose labels are `table[label]`; `table` is (256,) uint8."""
        mapped = LabelStore(len(self), self.video_hw)
        for frame, labels in enumerate(self):
            mapped[frame] = look_up(labels, table)
        return mapped

    def nbytes(self) -> int:
        """Bytes the compressed maps hold."""
        return sum(len(kept.packed) for kept in self._maps if kept.packed is not None)
