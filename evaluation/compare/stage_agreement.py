"""How far two sides agree stage by stage, and in which stage a difference is born."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ...runtime.comparison.parity import LIMITS, OutputDifference
from ...runtime.precision import PrecisionName
from .mask_agreement import MaskLimits, SequenceAgreement

Mode = Literal["free", "teacher_forced"]
"""free: every stage of B has B's own inputs, as a run has. teacher_forced: it has A's."""

MODE_WORDS: Mapping[Mode, str] = {"free": "free-running", "teacher_forced": "teacher-forced"}

MEASURES: Mapping[str, str] = {
    "proposer": "IoU of kept proposals",
    "gmos_s": "IoU of the foreground",
    "mos-i": "IoU of objects",
    "mos": "IoU of objects",
}
"""What the IoU of a stage is of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFrame:
    """One frame of a stage whose answers are masks.

    `held` is the IoU that limits hold; of frames with the same one that with the larger `error` is the worse.
    `different` counts pixels that differ once objects are matched. `rest` is what its observation has beside these.
    """

    name: str
    iou: float
    held: float
    error: float = 0.0
    pixels: int
    different: int
    rest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[float, float]:
        """Sorts frames from the worst one on."""
        return self.held, -self.error


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
    stage: str, sequence: str, found: Sequence[tuple[str, OutputDifference]], profile: PrecisionName
) -> StageAgreement:
    """An encoder's outputs on the same frames.

    Args:
        stage: its name.
        sequence: of the video.
        found: frame and difference of an output, at least one.
        profile: whose limits of networks hold.
    """
    frame, worst = max(found, key=lambda entry: entry[1].severity)
    differences = [one for _, one in found]
    beyond = [
        f"{one.output} of frame {frame}: {line}"
        for frame, one in found
        if (line := one.excess(LIMITS[profile]))
    ]
    columns = ("output", "relative", "max_abs", "not_finite_b")
    lines = [(frame, {column: getattr(one, column) for column in columns}) for frame, one in found]
    return StageAgreement(
        stage=stage,
        sequence=sequence,
        mode="teacher_forced",
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
        words=f"{worst.output} most, cosine {worst.cosine:.7f}",
        differs=any(one.max_abs > 0 or one.not_finite_b for one in differences),
        beyond=_first(beyond),
        observations=_observations(stage, sequence, "teacher_forced", lines),
    )


def mask_stage(
    stage: str,
    sequence: str,
    mode: Mode,
    frames: Sequence[StageFrame],
    *,
    numbers: Mapping[str, float],
    words: str,
    differs: bool,
    beyond: Sequence[str],
) -> StageAgreement:
    """A stage whose frames have an IoU that is held to limits; fields as of `StageAgreement`."""
    worst = min(frames, key=lambda one: one.rank)
    lines = [
        (one.name, {"iou": one.iou, "pixels": one.pixels, "different": one.different, **one.rest})
        for one in frames
    ]
    return StageAgreement(
        stage=stage,
        sequence=sequence,
        mode=mode,
        measure=MEASURES[stage],
        mean=statistics.fmean(one.held for one in frames),
        worst=worst.held,
        frame=worst.name,
        numbers=numbers,
        words=words,
        differs=differs,
        beyond=_first(beyond),
        observations=_observations(stage, sequence, mode, lines),
    )


def below(frames: Sequence[StageFrame], what: str, limits: MaskLimits) -> list[str]:
    """Frames whose IoU is below its limit, the worst first, and the mean if it is below its own."""
    found = []
    for one in sorted((one for one in frames if one.held < limits.frame_iou), key=lambda one: one.rank):
        changes = f", {one.rest['keep_changes']} kept on one side only" if "keep_changes" in one.rest else ""
        found.append(f"{what} of frame {one.name}: IoU {one.held:.5f} (limit {limits.frame_iou:g}){changes}")
    mean = statistics.fmean(one.held for one in frames)
    if mean < limits.mean_iou:
        found.append(f"{what}: mean IoU {mean:.5f} (limit {limits.mean_iou:g})")
    return found


def tracker_stage(found: SequenceAgreement, mode: Mode, limits: MaskLimits) -> StageAgreement:
    """MOS-I or MOS. The frames of a free run are observations of their result already."""
    unmatched = len(found.only_a) + len(found.only_b)
    frames = [
        StageFrame(name=one.name, iou=one.iou, held=one.iou, pixels=one.pixels, different=one.different)
        for one in found.frames
    ]
    stage = mask_stage(
        found.result,
        found.sequence,
        mode,
        frames,
        numbers={
            "mean_boundary_f": found.mean_boundary_f,
            "different_pixels": found.different,
            "matched": len(found.matching),
            "unmatched": unmatched,
        },
        words=f"{len(found.matching)} objects matched, {unmatched} not, {found.different} px differ",
        differs=bool(found.different or found.renamed),
        beyond=found.failures(limits),
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
    stage: str, sequence: str, mode: Mode, lines: Sequence[tuple[str, Mapping[str, Any]]]
) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {"stage": stage, "mode": mode, "sequence": sequence, "frame": frame, **found}
        for frame, found in lines
    )
