"""Per-frame results of the heads: proposals with stored features (GMOS), foreground maps (GMOS-S)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, by_frame
from ..backend import Backend
from ..contract import NetworkName, Variant
from ..progress import Advance
from .encode import SAM2_FEATURES, Encoded, EncodedBatch, FrameEncoder, PreparedFrame
from .feature_store import FeatureStore
from .finite_check import FiniteCheck, seen_logits, source_of
from .proposals import ProposalCollector, Proposals

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadNames:
    """A head, the network that reads its `logits` at the video's size, and what of both is read on the host."""

    head: NetworkName
    to_video: NetworkName
    logits: str
    read: tuple[str, ...]


HEADS: dict[Variant, HeadNames] = {
    "gmos": HeadNames(
        head="proposer",
        to_video="proposal_labels",
        logits="mask_logits",
        read=("labels", "motion_logits", "ious"),
    ),
    "gmos-s": HeadNames(
        head="gmos_s",
        to_video="foreground_map",
        logits="foreground_logits",
        read=("mask", "probability", "ious", "confidences"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForegroundFrame:
    """GMOS-S's answer on one frame: `mask` 0 or 1 and `probability` floor(255 p), (H, W) uint8."""

    frame: PreparedFrame
    mask: NDArray[np.uint8]
    probability: NDArray[np.uint8]


class Head:
    """The head of a model, and the network that brings its logits to a video's size; outputs stay on the device."""

    def __init__(self, backend: Backend) -> None:
        names = HEADS[backend.model.variant]
        self._head, self._to_video = backend.runner(names.head), backend.runner(names.to_video)
        self._logits = names.logits
        self._arrays = backend.arrays

    def __call__(self, encoded: Encoded, video_hw: tuple[int, int]) -> dict[str, Array]:
        """All outputs of both, of windows of one video or of several of that size."""
        out = self._head({"geometry": encoded.geometry, **encoded.features})
        return {**out, **self._sized(out[self._logits], video_hw)}

    def by_window(self, encoded: Encoded, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Array]]:
        """All outputs of each window, whose video has that size (H, W): one call of the head for all of them."""
        if len(set(sizes)) == 1:
            return by_frame(self._arrays, out := self(encoded, sizes[0]), out)
        out = self._head({"geometry": encoded.geometry, **encoded.features})
        windows = by_frame(self._arrays, out, out)
        for window, size in zip(windows, sizes, strict=True):
            sized = self._sized(self._arrays.stack([window[self._logits]]), size)
            window |= {name: self._arrays.unstack(maps)[0] for name, maps in sized.items()}
        return windows

    def _sized(self, logits: Array, video_hw: tuple[int, int]) -> dict[str, Array]:
        return self._to_video({self._logits: logits, "video_hw": np.array(video_hw, np.int64)})


def propose(
    frames: Iterable[PreparedFrame],
    encoder: FrameEncoder,
    backend: Backend,
    store: FeatureStore,
    *,
    video_hw: tuple[int, int],
    advance: Advance,
    check: FiniteCheck,
) -> Proposals:
    """Run the proposer over a video; its SAM2 features stay in `store` for the tracker.

    Each batch is reduced to label maps on the device, so that mask logits never pile up. Frames without geometry get
    no proposals.

    Raises:
        GmosError: as `check` decides.
    """
    head, arrays, names = Head(backend), backend.arrays, HEADS["gmos"]

    def answers_of(batch: EncodedBatch) -> tuple[Sequence[Array], Sequence[Array]]:
        out = head(batch, video_hw)
        return [out[name] for name in names.read], check.logits_of(arrays, out[names.logits])

    collector = ProposalCollector(video_hw)

    def started() -> Iterator[tuple[EncodedBatch, tuple[Sequence[Array], Sequence[Array]]]]:
        for batch in encoder.run(frames):
            part = batch.with_geometry(arrays)
            yield batch, ((), ()) if part is None else answers_of(part)

    for batch, (answers, logits) in one_ahead(started()):
        found = enumerate(zip(*map(arrays.download, answers), strict=True))
        for position, frame in enumerate(batch.frames):
            if batch.chosen is not None and position not in batch.chosen:
                collector.skip()
                continue
            place, (labels, motions, ious) = next(found)
            check.check(
                frame.index,
                {"motion logits": motions, "IoUs": ious, **seen_logits(arrays, logits, place)},
                partial(source_of, arrays, batch, position, "proposer"),
            )
            collector.add(labels, motions, ious)
        for frame, features in zip(
            batch.frames, by_frame(arrays, batch.features, SAM2_FEATURES), strict=True
        ):
            store.put(frame.index, features)
        advance(len(batch.frames))
    return collector.finish()


def encode_features(
    frames: Iterable[PreparedFrame],
    backend: Backend,
    store: FeatureStore,
    *,
    batch_size: int,
    advance: Advance,
) -> None:
    """Put the SAM2 features of a video into `store` as `propose` does, without proposing anything."""
    resize, sam2, arrays = backend.runner("sam2_resize"), backend.runner("sam2_encoder"), backend.arrays
    incoming = iter(frames)
    while batch := list(islice(incoming, batch_size)):
        features = sam2(resize({"frames": arrays.upload(np.stack([frame.rgb for frame in batch]))}))
        for frame, one in zip(batch, by_frame(arrays, features, SAM2_FEATURES), strict=True):
            store.put(frame.index, one)
        advance(len(batch))


def foreground(
    frames: Iterable[PreparedFrame],
    encoder: FrameEncoder,
    backend: Backend,
    *,
    video_hw: tuple[int, int],
    advance: Advance,
    check: FiniteCheck,
) -> Iterator[ForegroundFrame]:
    """Run GMOS-S over a video, frame by frame; nothing of a frame outlives its batch.

    Raises:
        GmosError: as `check` decides.
    """
    head, arrays, names = Head(backend), backend.arrays, HEADS["gmos-s"]

    def started(batch: EncodedBatch) -> tuple[EncodedBatch, list[Array], Sequence[Array]]:
        out = head(batch, video_hw)
        return batch, [out[name] for name in names.read], check.logits_of(arrays, out[names.logits])

    batches = map(started, encoder.run(frames))
    for batch, answers, logits in one_ahead(batches):
        read = arrays.download_all(answers)
        for i, (frame, mask, probability, iou, confidence) in enumerate(
            zip(batch.frames, *read, strict=True)
        ):
            check.check(
                frame.index,
                {"IoUs": iou, "confidences": confidence, **seen_logits(arrays, logits, i)},
                partial(source_of, arrays, batch, i, "gmos_s"),
            )
            yield ForegroundFrame(frame=frame, mask=mask, probability=probability)
        advance(len(batch.frames))


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, each when the next one has been made.

    A device whose work is only started by the host then has the next batch to upload and compute while
    the results of this one are read back.
    """
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
