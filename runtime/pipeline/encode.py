"""From prepared frames to encoder outputs: each frame through DINO once and through SAM2 once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, Arrays, by_frame
from ..backend import Backend
from ..contract import ModelSpec
from ..pi3_frame import pi3_frame, pi3_size_wh
from ..video.sequence import Frame, window_indices

SAM2_FEATURES = ("s0", "s1", "f")

FrameTokens = Mapping[str, Array]
"""What the Pi3 decoder reads of a frame, by the names of its inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedFrame:
    """A decoded frame, and the same at Pi3's size.

    `rgb` (H, W, 3) and `pi3_rgb` (3, h*14, w*14), both uint8; `time_s` from the first frame.
    """

    index: int
    rgb: NDArray[np.uint8]
    pi3_rgb: NDArray[np.uint8]
    time_s: float


def frame_preparer(model: ModelSpec, video_hw: tuple[int, int]) -> Callable[[Frame], PreparedFrame]:
    """What prepares the frames of a video of that size, (H, W), for a model."""
    height, width = video_hw
    size_wh = pi3_size_wh(width, height, model.pi3_area_px, model.patch_px)

    def prepare(frame: Frame) -> PreparedFrame:
        return PreparedFrame(
            index=frame.index, rgb=frame.rgb, pi3_rgb=pi3_frame(frame.rgb, size_wh), time_s=frame.time_s
        )

    return prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What the heads need of some windows, batched: `geometry` and `features` (s0, s1, f) of their middle frames.

    `chosen` are the positions of the frames that have geometry, in its order; None: all. Without any it is None.
    """

    geometry: Array
    features: dict[str, Array]
    chosen: tuple[int, ...] | None = None


class FrameEncoder(Protocol):
    """Runs the encoders over the frames of a video."""

    def run(self, frames: Iterable[PreparedFrame]) -> Iterator[EncodedBatch]:
        """Batches in frame order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBatch(Encoded):
    """The same of consecutive frames."""

    frames: list[PreparedFrame]

    def with_geometry(self, arrays: Arrays) -> EncodedBatch | None:
        """The part of it that has geometry; None if nothing has."""
        if self.chosen is None:
            return self
        if not self.chosen:
            return None
        features = {
            name: arrays.stack([one for i, one in enumerate(arrays.unstack(maps)) if i in self.chosen])
            for name, maps in self.features.items()
        }
        return EncodedBatch(
            frames=[self.frames[i] for i in self.chosen], geometry=self.geometry, features=features
        )


class Pi3:
    """Pi3's two halves: of frames, and of their windows."""

    def __init__(self, backend: Backend) -> None:
        self._arrays = backend.arrays
        self._dino = backend.runner("dino")
        self._decoder = backend.runner("pi3_decoder")

    def tokens(self, frames: Sequence[NDArray[np.uint8]]) -> Sequence[FrameTokens]:
        """Of frames (3, h*14, w*14) uint8 of one size, in one call."""
        found = self._dino({"frames": self._arrays.upload(np.stack(frames))})
        return by_frame(self._arrays, found, found)

    def geometry(self, windows: Sequence[Sequence[FrameTokens]]) -> Array:
        """Of windows of one size (B, h, w, C), in one call."""
        stack = self._arrays.stack
        return self._decoder(
            {
                name: stack([stack([frame[name] for frame in window]) for window in windows])
                for name in windows[0][0]
            }
        )["geometry"]


class Encoders:
    """The networks before the heads, as streams and files call them alike."""

    def __init__(self, backend: Backend) -> None:
        self._arrays = backend.arrays
        pi3 = Pi3(backend)
        self.tokens = pi3.tokens
        self._geometry = pi3.geometry
        self._resize = backend.runner("sam2_resize")
        self._sam2 = backend.runner("sam2_encoder")

    def encode(
        self, windows: Sequence[Sequence[FrameTokens]], frames: Sequence[NDArray[np.uint8]]
    ) -> Encoded:
        """Windows of tokens of one size, and their middle frames (H, W, 3) uint8, in one call of each network.

        Only resizing has a call for each size of frames.
        """
        geometry = self._geometry(windows)
        return Encoded(geometry=geometry, features=self._sam2({"images": self._images(frames)}))

    def _images(self, frames: Sequence[NDArray[np.uint8]]) -> Array:
        sizes = dict.fromkeys(frame.shape for frame in frames)
        images: dict[int, Array] = {}
        for size in sizes:
            places = [place for place, frame in enumerate(frames) if frame.shape == size]
            video = self._arrays.upload(np.stack([frames[place] for place in places]))
            resized = self._resize({"frames": video})["images"]
            if len(sizes) == 1:
                return resized
            images |= zip(places, self._arrays.unstack(resized), strict=True)
        return self._arrays.stack([images[place] for place in range(len(frames))])


class WindowEncoder:
    """Runs the encoders over a stream whose length is not known before its end.

    A frame is encoded by SAM2 when its window is complete, so only DINO tokens, not features, wait
    for the frames ahead. `stride` is the window's, in frames; `batch_size` windows go together.
    """

    def __init__(self, backend: Backend, *, stride: int, batch_size: int) -> None:
        self._encoders = Encoders(backend)
        self._stride = stride
        self._batch_size = batch_size
        self._window = backend.model.window
        self._reach = backend.model.window // 2 * stride
        self._tokens: dict[int, FrameTokens] = {}
        self._waiting: deque[PreparedFrame] = deque()
        self._seen = 0

    def run(self, frames: Iterable[PreparedFrame]) -> Iterator[EncodedBatch]:
        """Batches in frame order; the last one may be smaller."""
        incoming: list[PreparedFrame] = []
        for frame in frames:
            incoming.append(frame)
            if len(incoming) == self._batch_size:
                self._take(incoming)
                incoming = []
                while self._batch_is_complete():
                    yield self._encode(self._batch_size)
        if incoming:
            self._take(incoming)
        while self._waiting:
            yield self._encode(min(self._batch_size, len(self._waiting)))
        self._tokens.clear()

    def _take(self, frames: list[PreparedFrame]) -> None:
        tokens = self._encoders.tokens([frame.pi3_rgb for frame in frames])
        for frame, frame_tokens in zip(frames, tokens, strict=True):
            self._tokens[frame.index] = frame_tokens
        self._waiting.extend(frames)
        self._seen += len(frames)

    def _batch_is_complete(self) -> bool:
        """Whether the next whole batch would not change with frames that are still to come."""
        if len(self._waiting) < self._batch_size:
            return False
        return self._waiting[self._batch_size - 1].index + self._reach < self._seen

    def _encode(self, count: int) -> EncodedBatch:
        frames = [self._waiting.popleft() for _ in range(count)]
        windows = [
            [self._tokens[i] for i in window_indices(frame.index, self._seen, self._stride, self._window)]
            for frame in frames
        ]
        encoded = self._encoders.encode(windows, [frame.rgb for frame in frames])
        oldest_needed = frames[-1].index + 1 - self._reach
        for index in [i for i in self._tokens if i < oldest_needed]:
            del self._tokens[index]
        return EncodedBatch(frames=frames, geometry=encoded.geometry, features=encoded.features)
