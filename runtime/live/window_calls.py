"""The networks before the tracker, for windows of one stream or of several in one call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, NumpyArrays, by_frame
from ..backend import Backend
from ..pipeline.encode import SAM2_FEATURES, Encoders, FrameTokens
from ..pipeline.finite_check import seen_logits, source_of
from ..pipeline.propose import HEADS, Head
from .incoming import LiveFrame
from .windows import DueWindow

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowAnswer:
    """What the head says of a frame.

    `read` has by name what is read on the host: of GMOS `labels` (H, W) uint8, 0 or 1 + slot, `motion_logits` and
    `ious` (K,); of GMOS-S `mask` and `probability` (H, W) uint8, `ious` and `confidences` (1,). `logits` are those of
    its masks, where they are looked at (`FiniteCheck`). `features` are the backend's arrays of the frame: s0, s1 and f.
    `source` names the network whose values are not finite, if one's are.
    """

    read: Mapping[str, NDArray[Any]]
    logits: Mapping[str, NDArray[np.floating]]
    features: Mapping[str, Array]
    source: Callable[[], str]


class WindowCalls:
    """Runs a backend's encoders and head; `batch_size` windows go together at most."""

    def __init__(self, backend: Backend, *, batch_size: int) -> None:
        self._arrays = backend.arrays
        self._encoders = Encoders(backend)
        self._head = Head(backend)
        self._names = HEADS[backend.model.variant]
        self._batch_size = batch_size
        self._looked = False

    def tokens(self, frames: Sequence[LiveFrame]) -> list[FrameTokens]:
        """DINO's tokens of prepared frames; those of one Pi3 size go together."""
        found: dict[int, FrameTokens] = {}
        pi3 = [frame.pi3_rgb for frame in frames if frame.pi3_rgb is not None]
        for places in self._together([one.shape for one in pi3]):
            tokens = self._encoders.tokens([pi3[place] for place in places])
            found |= zip(places, tokens, strict=True)
        return [found[place] for place in range(len(frames))]

    def answers(self, due: Sequence[DueWindow], pi3_sizes: Sequence[tuple[int, ...]]) -> list[WindowAnswer]:
        """What the head says of frames; windows of one Pi3 size go together, and `pi3_sizes` has that of each."""
        found: dict[int, WindowAnswer] = {}
        for places in self._together(pi3_sizes):
            found |= zip(places, self._answers([due[place] for place in places]), strict=True)
        return [found[place] for place in range(len(due))]

    def _answers(self, due: Sequence[DueWindow]) -> Iterator[WindowAnswer]:
        frames = [window.frame.rgb for window in due]
        encoded = self._encoders.encode([window.tokens for window in due], frames)
        sizes = [(frame.shape[0], frame.shape[1]) for frame in frames]
        outputs = self._head.by_window(encoded, sizes)
        names = self._names.read
        values = iter(self._arrays.download_all([out[name] for out in outputs for name in names]))
        looks, self._looked = isinstance(self._arrays, NumpyArrays) or not self._looked, True
        seen = [out[self._names.logits] for out in outputs] if looks else []
        for place, features in enumerate(by_frame(self._arrays, encoded.features, SAM2_FEATURES)):
            yield WindowAnswer(
                read={name: next(values) for name in names},
                logits=seen_logits(self._arrays, seen, place),
                features=features,
                source=partial(source_of, self._arrays, encoded, place, self._names.head),
            )

    def _together(self, sizes: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
        """The places of equal sizes, at most `batch_size` each time."""
        by_size: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, size in enumerate(sizes):
            by_size[size].append(place)
        for places in by_size.values():
            for first in range(0, len(places), self._batch_size):
                yield places[first : first + self._batch_size]
