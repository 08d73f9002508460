"""How far two sides agree stage by stage, and in which stage a difference is born."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...runtime.parity import LIMITS, OutputDifference
from .foreground_agreement import ForegroundAgreement
from .limits import MaskLimits, ProfileName, failures
from .mask_agreement import SequenceAgreement
from .proposal_agreement import ProposalAgreement

Mode = Literal["free", "teacher_forced"]
"""free: every stage of B has B's own inputs, as a run has. teacher_forced: it has A's."""

MODE_WORDS: Mapping[Mode, str] = {"free": "free-running", "teacher_forced": "teacher-forced"}


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

    def as_json(self) -> dict[str, Any]:
        """As JSON values, without the observations."""
        return {
            "stage": self.stage,
            "sequence": self.sequence,
            "mode": self.mode,
            "measure": self.measure,
            "mean": self.mean,
            "worst": self.worst,
            "frame": self.frame,
            **self.numbers,
            "beyond": self.beyond,
        }


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
    frame, output, worst = max(found, key=lambda entry: entry[2].relative)
    beyond = [
        f"{output} of frame {frame}: {line}" for frame, output, one in found if (line := one.excess(limits))
    ]
    return StageAgreement(
        stage=stage,
        sequence=sequence,
        mode="teacher_forced",
        measure="relative L2 error",
        mean=statistics.fmean(one.relative for _, _, one in found),
        worst=worst.relative,
        frame=frame,
        numbers={
            "max_abs": max(one.max_abs for _, _, one in found),
            "cosine": min(one.cosine for _, _, one in found),
            "not_finite_a": sum(one.not_finite_a for _, _, one in found),
            "not_finite_b": sum(one.not_finite_b for _, _, one in found),
        },
        words=f"{output} most, cosine {worst.cosine:.7f}",
        differs=any(one.max_abs > 0 or one.not_finite_b for _, _, one in found),
        beyond=_first(beyond),
        observations=tuple(
            _line(
                stage,
                sequence,
                "teacher_forced",
                frame,
                {
                    "output": output,
                    "relative": one.relative,
                    "max_abs": one.max_abs,
                    "not_finite_b": one.not_finite_b,
                },
            )
            for frame, output, one in found
        ),
    )


def proposer_stage(found: ProposalAgreement, mode: Mode, limits: MaskLimits) -> StageAgreement:
    """The proposals of a video; those that either side trusts count."""
    frames = found.frames
    keeps, moves = (
        sum(getattr(frame, name) for frame in frames) for name in ("keep_changes", "motion_changes")
    )
    pairs = [pair for frame in frames for pair in frame.proposals]
    different = sum(frame.different for frame in frames)
    worst = found.worst_frame
    counts = sum(frame.count_a for frame in frames), sum(frame.count_b for frame in frames)
    beyond = [
        f"kept proposals of frame {frame.name}: IoU {frame.kept_iou:.5f} (limit {limits.frame_iou:g}), "
        f"{frame.keep_changes} kept on one side only"
        for frame in sorted(frames, key=lambda frame: frame.kept_iou)
        if frame.kept_iou < limits.frame_iou
    ]
    if found.mean_kept_iou < limits.mean_iou:
        beyond.append(f"kept proposals: mean IoU {found.mean_kept_iou:.5f} (limit {limits.mean_iou:g})")
    return StageAgreement(
        stage="proposer",
        sequence=found.sequence,
        mode=mode,
        measure="IoU of kept proposals",
        mean=found.mean_kept_iou,
        worst=worst.kept_iou,
        frame=worst.name,
        numbers={
            "mean_iou_all": found.mean_iou,
            "proposals_a": counts[0],
            "proposals_b": counts[1],
            "kept_a": sum(pair.kept[0] for pair in pairs),
            "kept_b": sum(pair.kept[1] for pair in pairs),
            "keep_changes": keeps,
            "motion_changes": moves,
            "different_pixels": different,
            "motion_different_pixels": sum(frame.motion_different for frame in frames),
            "max_motion_error": max((pair.motion_error for pair in pairs), default=0.0),
            "max_score_error": max((pair.score_error for pair in pairs), default=0.0),
        },
        words=f"{counts[0]} proposals of A, {counts[1]} of B; {keeps} kept and {moves} moving on one side only; "
        f"{different} px differ",
        differs=bool(different or any(pair.motion_error or pair.score_error for pair in pairs)),
        beyond=_first(beyond),
        observations=tuple(
            _line(
                "proposer",
                found.sequence,
                mode,
                frame.name,
                {
                    "kept_iou": frame.kept_iou,
                    "iou": frame.iou,
                    "pixels": frame.pixels,
                    "different": frame.different,
                    "motion_different": frame.motion_different,
                    "keep_changes": frame.keep_changes,
                    "proposals": [asdict(pair) for pair in frame.proposals],
                },
            )
            for frame in frames
        ),
    )


def gmos_s_stage(found: ForegroundAgreement, mode: Mode, limits: MaskLimits) -> StageAgreement:
    """The foreground of a video; decisions count, as in its masks."""
    worst, (not_finite_a, not_finite_b) = found.worst_frame, found.not_finite
    beyond = []
    if not_finite_a or not_finite_b:
        beyond.append(f"{not_finite_a} logits of A and {not_finite_b} of B are not finite numbers")
    if worst.iou < limits.frame_iou:
        beyond.append(f"foreground of frame {worst.name}: IoU {worst.iou:.5f} (limit {limits.frame_iou:g})")
    if found.mean_iou < limits.mean_iou:
        beyond.append(f"foreground: mean IoU {found.mean_iou:.5f} (limit {limits.mean_iou:g})")
    return StageAgreement(
        stage="gmos_s",
        sequence=found.sequence,
        mode=mode,
        measure="IoU of the foreground",
        mean=found.mean_iou,
        worst=worst.iou,
        frame=worst.name,
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
        beyond=_first(beyond),
        observations=tuple(
            _line(
                "gmos_s",
                found.sequence,
                mode,
                frame.name,
                {
                    "iou": frame.iou,
                    "pixels": frame.pixels,
                    "different": frame.different,
                    "max_probability_error": frame.max_error,
                    "mean_probability_error": frame.mean_error,
                },
            )
            for frame in found.frames
        ),
    )


def tracker_stage(found: SequenceAgreement, mode: Mode, limits: MaskLimits) -> StageAgreement:
    """MOS-I or MOS. The frames of a free run are observations of their result already."""
    different = sum(frame.different for frame in found.frames)
    unmatched = len(found.only_a) + len(found.only_b)
    return StageAgreement(
        stage=found.result,
        sequence=found.sequence,
        mode=mode,
        measure="IoU of objects",
        mean=found.mean_iou,
        worst=found.worst_frame.iou,
        frame=found.worst_frame.name,
        numbers={
            "mean_boundary_f": found.mean_boundary_f,
            "different_pixels": different,
            "matched": len(found.matching),
            "unmatched": unmatched,
        },
        words=f"{len(found.matching)} objects matched, {unmatched} not, {different} px differ",
        differs=bool(different or found.renamed),
        beyond=_first(failures(found, limits)),
        observations=()
        if mode == "free"
        else tuple(
            _line(
                found.result,
                found.sequence,
                mode,
                frame.name,
                {"iou": frame.iou, "pixels": frame.pixels, "different": frame.different},
            )
            for frame in found.frames
        ),
    )


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


def _line(stage: str, sequence: str, mode: Mode, frame: str, values: Mapping[str, Any]) -> dict[str, Any]:
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return {"stage": stage, "mode": mode, "sequence": sequence, "frame": frame, **plain}
