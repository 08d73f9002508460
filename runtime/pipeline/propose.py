"""Per-frame results of the heads: proposals with stored features (GMOS), foreground maps (GMOS-S)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, by_frame
from ..backend import Backend
from ..progress import Advance
from .encode import SAM2_FEATURES, EncodedBatch, FrameEncoder, PreparedFrame
from .feature_store import FeatureStore
from .finite_check import FiniteCheck, source_of
from .proposals import ProposalCollector, Proposals

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForegroundFrame:
    """GMOS-S's answer on one frame: `mask` 0 or 1 and `probability` floor(255 p), (H, W) uint8."""

    frame: PreparedFrame
    mask: NDArray[np.uint8]
    probability: NDArray[np.uint8]


def proposal_head(backend: Backend, video_hw: tuple[int, int]) -> Callable[[EncodedBatch], Sequence[Array]]:
    """What makes labels, motion logits and IoUs of a batch, still on the device, in `ProposalCollector.add`'s order."""
    proposer, label = backend.runner("proposer"), backend.runner("proposal_labels")
    size = np.array(video_hw, np.int64)

    def start(batch: EncodedBatch) -> Sequence[Array]:
        out = proposer({"geometry": batch.geometry, **batch.features})
        labels = label({"mask_logits": out["mask_logits"], "video_hw": size})["labels"]
        return labels, out["motion_logits"], out["ious"]

    return start


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
    head = proposal_head(backend, video_hw)
    collector = ProposalCollector(video_hw)

    def started() -> Iterator[tuple[EncodedBatch, Sequence[Array]]]:
        for batch in encoder.run(frames):
            part = batch.with_geometry(backend.arrays)
            yield batch, () if part is None else head(part)

    for batch, answers in one_ahead(started()):
        found = iter(zip(*map(backend.arrays.download, answers), strict=True))
        for position, frame in enumerate(batch.frames):
            if batch.chosen is not None and position not in batch.chosen:
                collector.skip()
                continue
            labels, motions, ious = next(found)
            check.check(
                frame.index,
                {"motion logits": motions, "IoUs": ious},
                partial(source_of, backend.arrays, batch, position, "proposer"),
            )
            collector.add(labels, motions, ious)
        for frame, features in zip(
            batch.frames, by_frame(backend.arrays, batch.features, SAM2_FEATURES), strict=True
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


def foreground_head(
    backend: Backend, video_hw: tuple[int, int]
) -> Callable[[EncodedBatch], Mapping[str, Array]]:
    """What makes the head's outputs, `mask` and `probability` of a batch, still on the device."""
    head, to_map = backend.runner("gmos_s"), backend.runner("foreground_map")
    size = np.array(video_hw, np.int64)

    def start(batch: EncodedBatch) -> Mapping[str, Array]:
        out = head({"geometry": batch.geometry, **batch.features})
        return {**out, **to_map({"foreground_logits": out["foreground_logits"], "video_hw": size})}

    return start


def foreground(
    frames: Iterable[PreparedFrame],
    encoder: FrameEncoder,
    backend: Backend,
    *,
    video_hw: tuple[int, int],
    advance: Advance,
    check: FiniteCheck,
    ahead: bool = True,
) -> Iterator[ForegroundFrame]:
    """Run GMOS-S over a video, frame by frame; nothing of a frame outlives its batch.

    `ahead` starts a batch before the results of the one before it are read, which makes each a batch later.

    Raises:
        GmosError: as `check` decides.
    """
    head, arrays = foreground_head(backend, video_hw), backend.arrays
    batches = ((batch, head(batch)) for batch in encoder.run(frames))
    for batch, maps in one_ahead(batches) if ahead else batches:
        read = arrays.download_all([maps[name] for name in ("mask", "probability", "ious", "confidences")])
        for i, (frame, mask, probability, iou, confidence) in enumerate(
            zip(batch.frames, *read, strict=True)
        ):
            check.check(
                frame.index,
                {"IoUs": iou, "confidences": confidence},
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
