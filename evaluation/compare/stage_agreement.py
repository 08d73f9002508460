"""How far two sides agree stage by stage, and in which stage a difference is born."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...runtime.comparison.parity import LIMITS, OutputDifference
from .foreground_agreement import ForegroundAgreement
from .limits import MaskLimits, ProfileName, failures
from .mask_agreement import Agreement, SequenceAgreement
from .proposal_agreement import ProposalAgreement

Mode = Literal["free", "teacher_forced"]
"""free: every stage of B has B's own inputs, as a run has. teacher_forced: it has A's."""

MODE_WORDS: Mapping[Mode, str] = {"free": "free-running", "teacher_forced": "teacher-forced"}


MASK_STAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "proposer": ("IoU of kept proposals", ("kept_iou", "motion_different", "keep_changes", "proposals")),
    "gmos_s": ("IoU of the foreground", ("max_probability_error", "mean_probability_error")),
    "mos-i": ("IoU of objects", ()),
    "mos": ("IoU of objects", ()),
}
"""What the IoU of a stage is of, and what its observations have of a frame beside IoU and pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageAgreement:
    """One stage of one video in one mode.

    `measure` says what `mean`, `worst` and `frame`, the frame that is worst, are of; `numbers` is the rest, and
    `words` says it in a table. `beyond` is what is beyond the limits, None if nothing is. `observations` has a line
    per frame where none is written elsewhere.
    """

    stage: str
    sequence: str
    mode: Mode
    measure: str
    mean: float
    worst: float
    frame: str
    numbers: Mapping[str, float]
    words: str
    differs: bool
    beyond: str | None
    observations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """Where the difference of one video is born: `stages` beyond the limits on A's own inputs, in their order."""

    sequence: str
    stages: tuple[str, ...]
    words: str


def encoder_stage(
    stage: str,
    sequence: str,
    found: Sequence[tuple[str, str, OutputDifference]],
    profile: ProfileName,
) -> StageAgreement:
    """An encoder's outputs on the same frames.

    Args:
        stage: its name.
        sequence: of the video.
        found: frame, output and difference, at least one.
        profile: whose limits of networks hold.
    """
    limits = LIMITS[profile]
    frame, output, worst = max(found, key=lambda entry: entry[2].severity)
    differences = [one for _, _, one in found]
    beyond = [
        f"{output} of frame {frame}: {line}" for frame, output, one in found if (line := one.excess(limits))
    ]
    mode: Mode = "teacher_forced"
    return StageAgreement(
        stage=stage,
        sequence=sequence,
        mode=mode,
        measure="relative L2 error",
        mean=statistics.fmean(one.relative for one in differences),
        worst=worst.relative,
        frame=frame,
        numbers={
            "max_abs": max(one.max_abs for one in differences),
            "cosine": min(one.cosine for one in differences),
            "not_finite_a": sum(one.not_finite_a for one in differences),
            "not_finite_b": sum(one.not_finite_b for one in differences),
        },
        words=f"{output} most, cosine {worst.cosine:.7f}",
        differs=any(one.max_abs > 0 or one.not_finite_b for one in differences),
        beyond=_first(beyond),
        observations=_observations(
            stage,
            sequence,
            mode,
            [(frame, one) for frame, _, one in found],
            ("output", "relative", "max_abs", "not_finite_b"),
        ),
    )


def _mask_stage(
    stage: str,
    found: Agreement[Any],
    mode: Mode,
    *,
    numbers: Mapping[str, float],
    words: str,
    differs: bool,
    beyond: Sequence[str],
) -> StageAgreement:
    """A stage whose frames have an IoU that is held to limits."""
    measure, columns = MASK_STAGES[stage]
    worst = found.worst_frame
    return StageAgreement(
        stage=stage,
        sequence=found.sequence,
        mode=mode,
        measure=measure,
        mean=found.mean_held_iou,
        worst=worst.held_iou,
        frame=worst.name,
        numbers=numbers,
        words=words,
        differs=differs,
        beyond=_first(beyond),
        observations=_observations(
            stage,
            found.sequence,
            mode,
            [(frame.name, frame) for frame in found.frames],
            ("iou", "pixels", "different", *columns),
        ),
    )


def _below(found: Agreement[Any], what: str, limits: MaskLimits) -> list[str]:
    """Frames whose IoU is below its limit, the worst first, and the mean if it is below its own."""
    below = sorted((one for one in found.frames if one.held_iou < limits.frame_iou), key=lambda one: one.rank)
    lines = [
        f"{what} of frame {one.name}: IoU {one.held_iou:.5f} (limit {limits.frame_iou:g}){one.note}"
        for one in below
    ]
    if found.mean_held_iou < limits.mean_iou:
        lines.append(f"{what}: mean IoU {found.mean_held_iou:.5f} (limit {limits.mean_iou:g})")
    return lines


def proposer_stage(found: ProposalAgreement, mode: Mode, limits: MaskLimits) -> StageAgreement:
    """The proposals of a video; those that either side trusts count."""
    frames = found.frames
    pairs = [pair for frame in frames for pair in frame.proposals]
    count_a, count_b, keeps, moves = (
        sum(getattr(frame, name) for frame in frames)
        for name in ("count_a", "count_b", "keep_changes", "motion_changes")
    )
    return _mask_stage(
        "proposer",
        found,
        mode,
        numbers={
            "mean_iou_all": found.mean_iou,
            "proposals_a": count_a,
            "proposals_b": count_b,
            "kept_a": sum(pair.kept[0] for pair in pairs),
            "kept_b": sum(pair.kept[1] for pair in pairs),
            "keep_changes": keeps,
            "motion_changes": moves,
            "different_pixels": found.different,
            "motion_different_pixels": sum(frame.motion_different for frame in frames),
            "max_motion_error": max((pair.motion_error for pair in pairs), default=0.0),
            "max_score_error": max((pair.score_error for pair in pairs), default=0.0),
        },
        words=f"{count_a} proposals of A, {count_b} of B; {keeps} kept and {moves} moving on one side only; "
        f"{found.different} px differ",
        differs=bool(found.different or any(pair.motion_error or pair.score_error for pair in pairs)),
        beyond=_below(found, "kept proposals", limits),
    )


def gmos_s_stage(found: ForegroundAgreement, mode: Mode, limits: MaskLimits) -> StageAgreement:
    """The foreground of a video; decisions count, as in its masks."""
    not_finite_a, not_finite_b = found.not_finite
    beyond = []
    if not_finite_a or not_finite_b:
        beyond.append(f"{not_finite_a} logits of A and {not_finite_b} of B are not finite numbers")
    return _mask_stage(
        "gmos_s",
        found,
        mode,
        numbers={
            "max_probability_error": found.max_error,
            "mean_probability_error": found.mean_error,
            "different_share": found.different_share,
            "not_finite_a": not_finite_a,
            "not_finite_b": not_finite_b,
        },
        words=f"probability error {found.max_error:.1e} at most, {found.mean_error:.1e} mean; "
        f"{found.different_share:.1e} of the decisions differ",
        differs=bool(found.max_error or found.different_share or not_finite_b),
        beyond=beyond + _below(found, "foreground", limits),
    )


def tracker_stage(found: SequenceAgreement, mode: Mode, limits: MaskLimits) -> StageAgreement:
    """MOS-I or MOS. The frames of a free run are observations of their result already."""
    unmatched = len(found.only_a) + len(found.only_b)
    stage = _mask_stage(
        found.result,
        found,
        mode,
        numbers={
            "mean_boundary_f": found.mean_boundary_f,
            "different_pixels": found.different,
            "matched": len(found.matching),
            "unmatched": unmatched,
        },
        words=f"{len(found.matching)} objects matched, {unmatched} not, {found.different} px differ",
        differs=bool(found.different or found.renamed),
        beyond=failures(found, limits),
    )
    return replace(stage, observations=()) if mode == "free" else stage


def births(stages: Sequence[StageAgreement]) -> tuple[Birth, ...]:
    """Where the difference of each video that was teacher-forced is born."""
    sequences = dict.fromkeys(stage.sequence for stage in stages if stage.mode == "teacher_forced")
    return tuple(
        _birth(sequence, [stage for stage in stages if stage.sequence == sequence]) for sequence in sequences
    )


def _birth(sequence: str, stages: Sequence[StageAgreement]) -> Birth:
    forced = [stage for stage in stages if stage.mode == "teacher_forced"]
    beyond = tuple(stage.stage for stage in forced if stage.beyond is not None)
    differing = [stage.stage for stage in forced if stage.differs]
    free = next((stage.stage for stage in stages if stage.mode == "free" and stage.beyond is not None), None)
    if beyond:
        words = f"born in: {beyond[0]}" + (f", and again in {', '.join(beyond[1:])}" if beyond[1:] else "")
    elif free is not None:
        order = [stage.stage for stage in forced]
        before = [stage for stage in differing if order.index(stage) <= order.index(free)]
        words = (
            f"born in: no stage alone; on A's inputs each is within the limits, but the errors of {', '.join(before)} "
            f"take {free} beyond them"
            if before
            else f"born in: no stage; on A's inputs all are equal up to {free}, so a side does not repeat itself"
        )
    elif differing:
        words = f"born in: no stage beyond the limits; the first that differs at all is {differing[0]}"
    else:
        words = "nothing differs"
    return Birth(sequence=sequence, stages=beyond, words=words)


def _first(lines: Sequence[str]) -> str | None:
    """The first of what is beyond the limits, and how many more there are."""
    if not lines:
        return None
    return lines[0] + (f", and {len(lines) - 1} more" if len(lines) > 1 else "")


def _observations(
    stage: str, sequence: str, mode: Mode, rows: Sequence[tuple[str, object]], columns: Sequence[str]
) -> tuple[Mapping[str, Any], ...]:
    """A line for each frame and what was found on it: these attributes."""
    return tuple(
        {
            "stage": stage,
            "mode": mode,
            "sequence": sequence,
            "frame": frame,
            **{column: getattr(found, column) for column in columns},
        }
        for frame, found in rows
    )
