"""Label maps of a whole video, compressed in memory: a few kilobytes a frame instead of its pixels."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

COMPRESSION_LEVEL = 1
"""zlib's fastest: label maps are flat, and higher levels cost more time than they save bytes."""


class LabelStore:
    """`frames` label maps (H, W) uint8, readable and writable by frame; unwritten ones are all 0."""

    def __init__(self, frames: int, video_hw: tuple[int, int]) -> None:
        self.video_hw = video_hw
        self._packed: list[bytes | None] = [None] * frames

    def __len__(self) -> int:
        return len(self._packed)

    def append(self, labels: NDArray[np.uint8]) -> None:
        """Add a frame at the end."""
        self._packed.append(None)
        self[len(self._packed) - 1] = labels

    def __setitem__(self, frame: int, labels: NDArray[np.uint8]) -> None:
        if labels.shape != self.video_hw or labels.dtype != np.uint8:
            raise ValueError(
                f"label map {labels.shape} {labels.dtype}: expected {self.video_hw} uint8 for frame {frame}"
            )
        self._packed[frame] = zlib.compress(labels.tobytes(), COMPRESSION_LEVEL) if labels.any() else None

    def __getitem__(self, frame: int) -> NDArray[np.uint8]:
        packed = self._packed[frame]
        if packed is None:
            return np.zeros(self.video_hw, np.uint8)
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(self.video_hw)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[frame] for frame in range(len(self)))

    def remap(self, table: NDArray[np.uint8]) -> LabelStore:
        """A new store whose labels are `table[label]`; `table` is (256,) uint8."""
        mapped = LabelStore(len(self), self.video_hw)
        for frame, labels in enumerate(self):
            mapped[frame] = table[labels]
        return mapped

    def nbytes(self) -> int:
        """Bytes the compressed maps hold."""
        return sum(len(packed) for packed in self._packed if packed is not None)
