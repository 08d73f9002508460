"""Proposals of frames that were passed over, once a later frame calls for a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...arrays import NumpyArrays
from ..encode import SAM2_FEATURES, EncodedBatch, PreparedFrame
from ..feature_store import FeatureBudget, FeatureStore
from ..finite_check import FiniteCheck, seen_logits, source_of
from ..proposals import Proposals
from ..propose import HEADS, Head
from .windows import Windows, in_parts

PIXELS = "pixels"

PIXEL_SHARE = 0.1
"""Of the host budget, what frames at Pi3's size may take: a tenth of what the features of a frame do."""


def split_budget(budget: FeatureBudget) -> tuple[FeatureBudget, FeatureBudget]:
    """What features may take of a budget, and what frames at Pi3's size may, which stay on the host."""
    pixels = int(PIXEL_SHARE * budget.host)
    return (
        FeatureBudget(device=budget.device, host=budget.host - pixels, spill_dir=budget.spill_dir),
        FeatureBudget(device=0, host=pixels, spill_dir=budget.spill_dir),
    )


class KeptPixels:
    """The frames of a video at Pi3's size, within a budget; without one none are kept."""

    def __init__(self, budget: FeatureBudget | None) -> None:
        self._kept = budget is not None
        self._store = FeatureStore(NumpyArrays(), budget or FeatureBudget(device=0, host=0))

    def __enter__(self) -> KeptPixels:
        return self

    def __exit__(self, *error: object) -> None:
        self._store.close()

    def noted(self, frames: Iterable[PreparedFrame]) -> Iterator[PreparedFrame]:
        """The same frames."""
        for frame in frames:
            if self._kept:
                self._store.put(frame.index, {PIXELS: frame.pi3_rgb})
            yield frame

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """A frame, (3, Hp, Wp) uint8."""
        pixels: NDArray[np.uint8] = self._store.get(index)[PIXELS]
        return pixels


class LookBack:
    """Proposes frames of a video whose features are stored.

    Args:
        windows: geometry of any frame.
        store: SAM2's features of every frame.
        pixels: every frame at Pi3's size.
        proposals: get what is found.
        check: decides what happens to values that are not finite.
    """

    def __init__(
        self,
        windows: Windows,
        store: FeatureStore,
        pixels: KeptPixels,
        proposals: Proposals,
        *,
        check: FiniteCheck,
    ) -> None:
        self._arrays = windows.backend.arrays
        self._windows = windows
        self._store = store
        self._pixels = pixels
        self._proposals = proposals
        self._check = check
        self._head = Head(windows.backend)

    def __call__(self, frames: Sequence[int]) -> None:
        """Propose frames; their geometry is computed, not interpolated.

        Raises:
            GmosError: as the check decides.
        """
        for part in in_parts(frames, self._windows.batch_size):
            self._propose(part)
        # Later calls are about later frames: they share few windows with those before these.
        self._windows.forget(min(frames))

    def _propose(self, frames: Sequence[int]) -> None:
        arrays, count = self._arrays, len(self._proposals)
        geometry = self._windows.geometry(frames, count, self._pixels)
        stored = [self._store.get(frame) for frame in frames]
        batch = EncodedBatch(
            frames=[],
            geometry=arrays.stack([geometry[frame] for frame in frames]),
            features={name: arrays.stack([one[name] for one in stored]) for name in SAM2_FEATURES},
        )
        out = self._head(batch, self._proposals.maps.video_hw)
        names = HEADS["gmos"]
        labels, motions, ious = (arrays.download(out[name]) for name in names.read)
        logits = self._check.logits_of(arrays, out[names.logits])
        for i, frame in enumerate(frames):
            self._check.check(
                frame,
                {"motion logits": motions[i], "IoUs": ious[i], **seen_logits(arrays, logits, i)},
                partial(source_of, arrays, batch, i, "proposer"),
            )
            self._proposals.add(frame, labels[i], motions[i], ious[i])
