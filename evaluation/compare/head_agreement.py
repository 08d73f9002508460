"""How far the heads' answers for one video agree: proposals with what is said of each, or GMOS-S's foreground."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ...errors import GmosError
from ...runtime.pipeline.proposals import Proposals
from ...runtime.pipeline.thresholds import PUBLISHED
from ..benchmarks.label_maps import joint_histogram
from .mask_agreement import Labels, MaskLimits, ObjectAgreement, match_objects, overlaps, pair_counts
from .stage_agreement import Mode, StageAgreement, StageFrame, below, mask_stage


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


def proposer_stage(
    sequence: str, names: Sequence[str], of_sides: tuple[Proposals, Proposals], mode: Mode, limits: MaskLimits
) -> StageAgreement:
    """The proposals of a video, compared frame by frame; those that either side trusts count.

    Numbers are ranks, not identities: each frame's proposals are matched by IoU, one to one. The published
    thresholds decide which proposals are trusted and which move.

    Args:
        sequence: name of the video.
        names: of its frames.
        of_sides: what A and B proposed.
        mode: what B's proposer was given.
        limits: that are to hold.

    Raises:
        GmosError: the sides have different numbers of frames.
    """
    a, b = of_sides
    if not len(a) == len(b) == len(names):
        raise GmosError(
            f"proposals of {sequence}: A has {len(a)} frames, B {len(b)} and their masks {len(names)}; expected runs "
            "of the same video"
        )
    frames = [_proposal_frame(name, _Side(a, index), _Side(b, index)) for index, name in enumerate(names)]
    pairs: list[ProposalPair] = [pair for frame in frames for pair in frame.rest["proposals"]]
    count_a, count_b = (sum(pair.a is not None for pair in pairs), sum(pair.b is not None for pair in pairs))
    keeps = sum(frame.rest["keep_changes"] for frame in frames)
    moves = sum(pair.moving[0] != pair.moving[1] for pair in pairs)
    different = sum(frame.different for frame in frames)
    return mask_stage(
        "proposer",
        sequence,
        mode,
        frames,
        numbers={
            "mean_iou_all": statistics.fmean(frame.iou for frame in frames),
            "proposals_a": count_a,
            "proposals_b": count_b,
            "kept_a": sum(pair.kept[0] for pair in pairs),
            "kept_b": sum(pair.kept[1] for pair in pairs),
            "keep_changes": keeps,
            "motion_changes": moves,
            "different_pixels": different,
            "motion_different_pixels": sum(frame.rest["motion_different"] for frame in frames),
            "max_motion_error": max((pair.motion_error for pair in pairs), default=0.0),
            "max_score_error": max((pair.score_error for pair in pairs), default=0.0),
        },
        words=f"{count_a} proposals of A, {count_b} of B; {keeps} kept and {moves} moving on one side only; "
        f"{different} px differ",
        differs=bool(different or any(pair.motion_error or pair.score_error for pair in pairs)),
        beyond=below(frames, "kept proposals", limits),
    )


class _Side:
    """One side's proposals of a frame; numbers count from 1."""

    def __init__(self, proposals: Proposals, frame: int) -> None:
        own = proposals.frame(frame)
        self.labels: Labels = own.labels
        self.motions, self.scores = own.motions, own.ious
        self.kept = own.trusted(PUBLISHED, count=len(own.motions))
        self.moving = self.motions > np.float32(PUBLISHED.motion)
        self.motion_map = own.motion_map(PUBLISHED)


def _proposal_frame(name: str, a: _Side, b: _Side) -> StageFrame:
    """IoUs are means over the proposals that either side has, or trusts: 0 for those that only one does."""
    joint = joint_histogram(a.labels, b.labels)
    found, different = overlaps(pair_counts(joint), match_objects(joint))
    pairs = tuple(_pair(a, b, one) for one in found)
    kept = [pair.iou if all(pair.kept) else 0.0 for pair in pairs if any(pair.kept)]
    kept_iou = statistics.fmean(kept) if kept else 1.0
    return StageFrame(
        name=name,
        iou=statistics.fmean(pair.iou for pair in pairs) if pairs else 1.0,
        held=kept_iou,
        error=different,
        pixels=int(joint.sum()),
        different=different,
        rest={
            "kept_iou": kept_iou,
            "motion_different": int(np.count_nonzero(a.motion_map != b.motion_map)),
            "keep_changes": sum(pair.kept[0] != pair.kept[1] for pair in pairs),
            "proposals": pairs,
        },
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


@dataclass(frozen=True, slots=True)
class ForegroundFrame:
    """One frame of GMOS-S, and the logits of A and of B that are no finite numbers: errors are of the others."""

    frame: StageFrame
    not_finite_a: int
    not_finite_b: int


def compare_foreground(
    name: str, logits: tuple[NDArray[Any], NDArray[Any]], masks: tuple[Labels, Labels]
) -> ForegroundFrame:
    """Compare one frame: probabilities at the network's resolution, decisions at the video's.

    Args:
        name: of the frame.
        logits: of A and of B, of one shape.
        masks: (H, W) of A and of B, 0 or 1.
    """
    finite = [np.isfinite(values) for values in logits]
    known = finite[0] & finite[1]
    a, b = (expit(values[known].astype(np.float64)) for values in logits)
    errors = np.abs(a - b)
    different = int(np.count_nonzero(masks[0] != masks[1]))
    either = int(np.count_nonzero((masks[0] != 0) | (masks[1] != 0)))
    iou = 1 - different / either if either else 1.0
    max_error = float(errors.max(initial=0.0))
    mean_error = float(errors.mean()) if errors.size else 0.0
    frame = StageFrame(
        name=name,
        iou=iou,
        held=iou,
        error=max_error,
        pixels=masks[0].size,
        different=different,
        rest={"max_probability_error": max_error, "mean_probability_error": mean_error},
    )
    return ForegroundFrame(frame, int(np.count_nonzero(~finite[0])), int(np.count_nonzero(~finite[1])))


def gmos_s_stage(
    sequence: str, found: Sequence[ForegroundFrame], mode: Mode, limits: MaskLimits
) -> StageAgreement:
    """The foreground of a video; decisions count, as in its masks."""
    frames = [one.frame for one in found]
    not_finite_a, not_finite_b = (
        sum(one.not_finite_a for one in found),
        sum(one.not_finite_b for one in found),
    )
    max_error = max(frame.rest["max_probability_error"] for frame in frames)
    mean_error = statistics.fmean(frame.rest["mean_probability_error"] for frame in frames)
    share = sum(frame.different for frame in frames) / sum(frame.pixels for frame in frames)
    beyond = below(frames, "foreground", limits)
    if not_finite_a or not_finite_b:
        beyond.insert(0, f"{not_finite_a} logits of A and {not_finite_b} of B are not finite numbers")
    return mask_stage(
        "gmos_s",
        sequence,
        mode,
        frames,
        numbers={
            "max_probability_error": max_error,
            "mean_probability_error": mean_error,
            "different_share": share,
            "not_finite_a": not_finite_a,
            "not_finite_b": not_finite_b,
        },
        words=f"probability error {max_error:.1e} at most, {mean_error:.1e} mean; "
        f"{share:.1e} of the decisions differ",
        differs=bool(max_error or share or not_finite_b),
        beyond=beyond,
    )
