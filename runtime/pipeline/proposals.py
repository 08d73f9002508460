"""The proposer's answers for a whole video, reduced to one label map per frame and two score tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..contract import PROPOSAL_LIMIT
from ..label_lookup import look_up
from .label_store import LabelStore
from .thresholds import Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameProposals:
    """What the propagator reads of one frame. Numbers are ranks of this frame, not identities.

    `labels` (H, W) uint8, 0 or the proposal's number 1..M; `motions`, `ious` (K,) float32 in the place number - 1,
    zero where there is no such number; motions are probabilities, IoUs raw. `eligible` (K,) bool, where given, says
    which of them can be trusted at all.
    """

    labels: NDArray[np.uint8]
    motions: NDArray[np.float32]
    ious: NDArray[np.float32]
    eligible: NDArray[np.bool_] | None = None

    @property
    def count(self) -> int:
        """The greatest number that is seen on this frame."""
        return int(self.labels.max())

    def trusted(self, thresholds: Thresholds, *, count: int | None = None) -> NDArray[np.bool_]:
        """Which of the first `count` proposals move and have a trusted mask; (count,) bool."""
        first = slice(self.count if count is None else count)
        motion, iou = self.motions[first], self.ious[first]
        trusted = (motion > np.float32(thresholds.motion)) & (iou > np.float32(thresholds.iou))
        return trusted if self.eligible is None else trusted & self.eligible[first]

    def motion_map(self, thresholds: Thresholds) -> NDArray[np.bool_]:
        """Pixels of moving proposals; (H, W) bool."""
        moving = np.zeros(256, np.bool_)
        moving[1 : 1 + len(self.motions)] = self.motions > np.float32(thresholds.motion)
        found: NDArray[np.bool_] = look_up(self.labels, moving)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """The same of all frames of a video: `maps` n label maps, `motions` and `ious` (n, K) float32.

    `known` (n,) bool says which frames were proposed; the others have nothing. None: all. Then numbers are without
    gaps, else they are slots.
    """

    maps: LabelStore
    motions: NDArray[np.float32]
    ious: NDArray[np.float32]
    known: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.maps)

    def frame(self, index: int) -> FrameProposals:
        """Those of a frame."""
        return FrameProposals(labels=self.maps[index], motions=self.motions[index], ious=self.ious[index])

    def is_known(self, frame: int) -> bool:
        """Whether a frame was proposed."""
        return self.known is None or bool(self.known[frame])

    def passed_over(self, frame: int) -> tuple[int, ...]:
        """The frames just before one that were not proposed, in order."""
        first = frame
        while first > 0 and not self.is_known(first - 1):
            first -= 1
        return tuple(range(first, frame))

    def add(
        self,
        frame: int,
        labels: NDArray[np.uint8],
        motion_logits: NDArray[np.float32],
        ious: NDArray[np.float32],
    ) -> None:
        """Fill in a frame that was not proposed; arrays as `ProposalCollector.add` takes them."""
        if self.known is None:
            raise ValueError("all frames are proposed")
        slots = len(ious)
        self.maps[frame] = labels
        self.motions[frame, :slots] = _sigmoid(motion_logits.astype(np.float32))
        self.ious[frame, :slots] = ious
        self.known[frame] = True

    def nearest_known(self) -> NDArray[np.intp]:
        """For each frame the nearest one that was proposed, of two the earlier; (n,)."""
        frames = np.arange(len(self))
        if self.known is None:
            return frames
        known = np.flatnonzero(self.known)
        nearest: NDArray[np.intp] = known[np.abs(known - frames[:, None]).argmin(axis=1)]
        return nearest


class ProposalCollector:
    """Gathers proposals frame by frame and numbers them when the video is complete."""

    def __init__(self, video_hw: tuple[int, int]) -> None:
        self._maps = LabelStore(0, video_hw)
        self._nothing = np.zeros(video_hw, np.uint8)
        self._motion_logits: list[NDArray[np.float32]] = []
        self._ious: list[NDArray[np.float32]] = []
        self._known: list[bool] = []
        self._slots_seen = np.zeros(256, np.bool_)

    def add(
        self,
        labels: NDArray[np.uint8],
        motion_logits: NDArray[np.float32],
        ious: NDArray[np.float32],
    ) -> None:
        """Add the next frame: `labels` (H, W) 0 or 1 + slot; `motion_logits`, `ious` (K,) by slot."""
        self._maps.append(labels)
        self._motion_logits.append(motion_logits)
        self._ious.append(ious)
        self._known.append(True)
        self._slots_seen |= slots_won(labels)

    def skip(self) -> None:
        """Pass the next frame over; not the first one."""
        nothing = np.full_like(self._motion_logits[0], -np.inf), np.zeros_like(self._ious[0])
        self.add(self._nothing, *nothing)
        self._known[-1] = False

    def finish(self) -> Proposals:
        """Drop slots that won no pixel in the whole video and close the gaps, in slot order.

        Where frames were passed over, their slots are not known, and all are kept.
        """
        whole = all(self._known)
        seen = self._slots_seen if whole else np.arange(256) <= len(self._ious[0])
        slots, table = number_slots(seen)
        gapless = np.array_equal(slots, np.arange(len(slots)))
        logits = np.stack(self._motion_logits).astype(np.float32)
        return Proposals(
            maps=self._maps if gapless else self._maps.remap(table),
            motions=columns(_sigmoid(logits), slots),
            ious=columns(np.stack(self._ious).astype(np.float32), slots),
            known=None if whole else np.array(self._known),
        )


def number_slots(seen: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """The slots that won a pixel, in order, and the table (256,) uint8 from 1 + slot to the numbers 1..M.

    `seen` (256,) bool is by 1 + slot.
    """
    slots: NDArray[np.intp] = np.flatnonzero(seen[1:])
    table = np.zeros(256, np.uint8)
    table[slots + 1] = np.arange(1, len(slots) + 1)
    return slots, table


def columns(by_slot: NDArray[np.float32], slots: NDArray[np.intp]) -> NDArray[np.float32]:
    """Scores (..., K) by slot as scores by number - 1, zero where there is no such number."""
    moved = np.zeros((*by_slot.shape[:-1], PROPOSAL_LIMIT), np.float32)
    moved[..., : len(slots)] = by_slot[..., slots]
    return moved


def slots_won(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which values (256,) bool a map (H, W) has."""
    return np.bincount(labels.ravel(), minlength=256) > 0


def number_frame(
    labels: NDArray[np.uint8],
    motion_logits: NDArray[np.float32],
    ious: NDArray[np.float32],
    *,
    won: NDArray[np.bool_],
    seen: NDArray[np.bool_],
) -> FrameProposals:
    """The proposals of one frame of a stream, where only what won a pixel on this frame can be trusted.

    Args:
        labels: (H, W), 0 or 1 + slot.
        motion_logits: (K,) by slot.
        ious: (K,) by slot.
        won: (256,) bool by 1 + slot: those that win a pixel on this frame.
        seen: (256,) bool by 1 + slot: the slots that have won a pixel so far, on this frame or before; these are
            numbered.
    """
    slots, table = number_slots(seen)
    return FrameProposals(
        labels=look_up(labels, table),
        motions=columns(_sigmoid(motion_logits.astype(np.float32)), slots),
        ious=columns(ious.astype(np.float32), slots),
        eligible=columns(won[1 : 1 + len(ious)].astype(np.float32), slots) > 0,
    )


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logistic function without overflow warnings, float32."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
