"""How far two proposers' answers for one video agree: masks, what they say of each, and what the tracker trusts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ...runtime.pipeline.proposals import Proposals
from ...runtime.pipeline.thresholds import PUBLISHED, Thresholds
from .mask_agreement import (
    Agreement,
    ComparedFrame,
    Labels,
    ObjectAgreement,
    joint_counts,
    match_objects,
    overlaps,
    pair_counts,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalPair:
    """One proposal of a frame on both sides.

    `a` and `b` are its numbers, None where a side has no such proposal; `kept`, `moving` are A's and B's decisions
    about it, False where there is none. `motion_error`, `score_error` are the differences of its motion
    probability and of its predicted IoU: 0 where a side has none, 1 where one is no finite number.
    """

    a: int | None
    b: int | None
    iou: float
    kept: tuple[bool, bool]
    moving: tuple[bool, bool]
    motion_error: float
    score_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalFrame(ComparedFrame):
    """One frame. `different` counts pixels of other proposals, `motion_different` those that move on one side only."""

    motion_different: int
    proposals: tuple[ProposalPair, ...]

    @property
    def iou(self) -> float:
        """Mean over the proposals that either side has; 1 where neither has any."""
        return statistics.fmean(pair.iou for pair in self.proposals) if self.proposals else 1.0

    @property
    def kept_iou(self) -> float:
        """Mean over the proposals that either side trusts, 0 for those that only one does; 1 where there are none."""
        ious = [pair.iou if all(pair.kept) else 0.0 for pair in self.proposals if any(pair.kept)]
        return statistics.fmean(ious) if ious else 1.0

    @property
    def held_iou(self) -> float:
        """That of the proposals that are trusted."""
        return self.kept_iou

    @property
    def rank(self) -> tuple[float, ...]:
        """The frame whose trusted proposals agree least first, of several the one with most pixels that differ."""
        return (self.held_iou, -self.different)

    @property
    def note(self) -> str:
        """How many proposals only one side trusts."""
        return f", {self.keep_changes} kept on one side only"

    @property
    def count_a(self) -> int:
        """Proposals of A."""
        return sum(pair.a is not None for pair in self.proposals)

    @property
    def count_b(self) -> int:
        """Proposals of B."""
        return sum(pair.b is not None for pair in self.proposals)

    @property
    def keep_changes(self) -> int:
        """Proposals that one side trusts and the other does not, or does not have."""
        return sum(pair.kept[0] != pair.kept[1] for pair in self.proposals)

    @property
    def motion_changes(self) -> int:
        """Proposals that move for one side only."""
        return sum(pair.moving[0] != pair.moving[1] for pair in self.proposals)


class ProposalAgreement(Agreement[ProposalFrame]):
    """The proposals of one video on both sides."""


def proposal_agreement(
    sequence: str,
    frames: Sequence[str],
    a: Proposals,
    b: Proposals,
    *,
    thresholds: Thresholds = PUBLISHED,
) -> ProposalAgreement:
    """Compare the proposals of a video frame by frame.

    Numbers are ranks, not identities: each frame's proposals are matched by IoU, one to one.

    Args:
        sequence: name of the video.
        frames: names of its frames.
        a: of side A.
        b: of side B.
        thresholds: that decide which proposals are trusted and which move.

    Raises:
        GmosError: the sides have different numbers of frames.
    """
    if not len(a) == len(b) == len(frames):
        raise GmosError(
            f"proposals of {sequence}: A has {len(a)} frames, B {len(b)} and their masks {len(frames)}; expected runs "
            "of the same video"
        )
    return ProposalAgreement(
        sequence=sequence,
        frames=tuple(
            _frame(name, _Side(a, index, thresholds), _Side(b, index, thresholds))
            for index, name in enumerate(frames)
        ),
    )


class _Side:
    """One side's proposals of a frame; `number` counts from 1."""

    def __init__(self, proposals: Proposals, frame: int, thresholds: Thresholds) -> None:
        self.labels: Labels = proposals.maps[frame]
        columns = proposals.motions.shape[1]
        self.motions, self.scores = proposals.motions[frame], proposals.ious[frame]
        self.kept = proposals.trusted(frame, columns, thresholds)
        self.moving = self.motions > np.float32(thresholds.motion)
        self.motion_map = proposals.motion_map(frame, self.labels, thresholds)


def _frame(name: str, a: _Side, b: _Side) -> ProposalFrame:
    joint = joint_counts(a.labels, b.labels)
    found, different = overlaps(pair_counts(joint), match_objects(joint))
    return ProposalFrame(
        name=name,
        pixels=int(joint.sum()),
        different=different,
        motion_different=int(np.count_nonzero(a.motion_map != b.motion_map)),
        proposals=tuple(_pair(a, b, one) for one in found),
    )


def _pair(a: _Side, b: _Side, found: ObjectAgreement) -> ProposalPair:
    places = ((a, found.a), (b, found.b))
    kept = [number is not None and bool(side.kept[number - 1]) for side, number in places]
    moving = [number is not None and bool(side.moving[number - 1]) for side, number in places]
    return ProposalPair(
        a=found.a,
        b=found.b,
        iou=found.iou,
        kept=(kept[0], kept[1]),
        moving=(moving[0], moving[1]),
        motion_error=_error(a.motions, b.motions, found),
        score_error=_error(a.scores, b.scores, found),
    )


def _error(a: NDArray[np.float32], b: NDArray[np.float32], found: ObjectAgreement) -> float:
    if found.a is None or found.b is None:
        return 0.0
    error = abs(float(a[found.a - 1]) - float(b[found.b - 1]))
    return error if math.isfinite(error) else 1.0
