"""When two runs count as the same: limits on masks, by precision. Networks have `runtime.comparison.parity.LIMITS`."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.precision import PRECISIONS, PrecisionName
from .mask_agreement import FrameAgreement, SequenceAgreement

ProfileName = PrecisionName
"""Limits are named after the precision that they are for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskLimits:
    """Least IoU of every frame and of their mean; `ids` asks for the same labels, not only the same objects."""

    frame_iou: float
    mean_iou: float
    ids: bool = True


PROFILES: dict[ProfileName, MaskLimits] = {
    precision.name: MaskLimits(frame_iou=precision.frame_iou, mean_iou=precision.mean_iou)
    for precision in PRECISIONS.values()
}
"""By precision."""


def failures(found: SequenceAgreement, limits: MaskLimits) -> list[str]:
    """What is beyond the limits, each in words that say where; empty if nothing is."""
    where = f"{found.result} of {found.sequence}"
    lines = []
    if found.mean_iou < limits.mean_iou:
        lines.append(f"{where}: mean IoU {found.mean_iou:.5f} (limit {limits.mean_iou:g})")
    below = [frame for frame in found.frames if frame.iou < limits.frame_iou]
    if below:
        worst = found.worst_frame
        others = f", and {len(below) - 1} more frames below" if len(below) > 1 else ""
        lines.append(
            f"{where}: frame {worst.name} IoU {worst.iou:.5f} (limit {limits.frame_iou:g}), {weakest(worst)}{others}"
        )
    if limits.ids and found.renamed:
        names = ", ".join(f"{a} of A is {b} of B" for a, b in found.renamed.items())
        lines.append(f"{where}: the same objects under other ids: {names}")
    return lines


def weakest(frame: FrameAgreement) -> str:
    """The object that agrees least on a frame, in words."""
    if not frame.objects:
        return "no objects"
    least = min(frame.objects, key=lambda found: found.iou)
    if least.a is None:
        return f"object {least.b} is in B only ({least.pixels_b} px)"
    if least.b is None:
        return f"object {least.a} is in A only ({least.pixels_a} px)"
    return f"object {least.a}: {least.iou:.5f} ({least.pixels_a} px in A, {least.pixels_b} px in B)"
