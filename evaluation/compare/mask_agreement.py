"""How far two runs' label maps of one video agree: object by object, frame by frame."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from ...errors import GmosError
from ...runtime.precision import PRECISIONS, PrecisionName
from ..benchmarks.boundary import boundary_f
from ..benchmarks.label_maps import joint_histogram

Labels = npt.NDArray[np.uint8]
ReadPair = Callable[[int], tuple[Labels, Labels]]
"""The label maps (H, W) of both sides at a position."""

Pair = tuple[int | None, int | None]
"""An object by its labels in A and in B; None where a side has no such object."""

PairCounts = Mapping[tuple[int, int], int]
"""Pixels of a frame by label in A and label in B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskLimits:
    """Least IoU of every frame and of their mean; `ids` asks for the same labels, not only the same objects."""

    frame_iou: float
    mean_iou: float
    ids: bool = True


PROFILES: dict[PrecisionName, MaskLimits] = {
    precision.name: MaskLimits(frame_iou=precision.frame_iou, mean_iou=precision.mean_iou)
    for precision in PRECISIONS.values()
}
"""When two runs' masks count as the same, by precision. Networks have `runtime.comparison.parity.LIMITS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectAgreement:
    """One object on one frame. `a` and `b` are its labels; None where the side has no such object."""

    a: int | None
    b: int | None
    iou: float
    boundary_f: float
    pixels_a: int
    pixels_b: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameAgreement:
    """One frame with the objects that either side has. `different` counts pixels that differ once they are matched."""

    name: str
    pixels: int
    different: int
    objects: tuple[ObjectAgreement, ...]

    @property
    def iou(self) -> float:
        """Mean over the objects that either side has on the frame; 1 where neither has any."""
        return statistics.fmean(found.iou for found in self.objects) if self.objects else 1.0

    @property
    def boundary_f(self) -> float:
        """The same mean of the boundary measure."""
        return statistics.fmean(found.boundary_f for found in self.objects) if self.objects else 1.0

    @property
    def weakest(self) -> str:
        """The object that agrees least, in words."""
        if not self.objects:
            return "no objects"
        least = min(self.objects, key=lambda found: found.iou)
        if least.a is None:
            return f"object {least.b} is in B only ({least.pixels_b} px)"
        if least.b is None:
            return f"object {least.a} is in A only ({least.pixels_a} px)"
        return f"object {least.a}: {least.iou:.5f} ({least.pixels_a} px in A, {least.pixels_b} px in B)"


@dataclass(frozen=True, kw_only=True)
class SequenceAgreement:
    """One result of one video. `matching` gives A's labels the label of the same object in B."""

    result: str
    sequence: str
    frames: tuple[FrameAgreement, ...]
    matching: Mapping[int, int]
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]

    @cached_property
    def mean_iou(self) -> float:
        """Mean over the frames."""
        return statistics.fmean(frame.iou for frame in self.frames)

    @cached_property
    def mean_boundary_f(self) -> float:
        """Mean over the frames."""
        return statistics.fmean(frame.boundary_f for frame in self.frames)

    @cached_property
    def worst_frame(self) -> FrameAgreement:
        """The frame that agrees least, the earliest of several."""
        return min(self.frames, key=lambda frame: frame.iou)

    @cached_property
    def different(self) -> int:
        """Pixels that differ."""
        return sum(frame.different for frame in self.frames)

    @property
    def different_share(self) -> float:
        """Share of all pixels that differ."""
        return self.different / sum(frame.pixels for frame in self.frames)

    @property
    def renamed(self) -> dict[int, int]:
        """Objects that both sides have under different labels."""
        return {a: b for a, b in self.matching.items() if a != b}

    def failures(self, limits: MaskLimits) -> list[str]:
        """What is beyond the limits, each in words that say where; empty if nothing is."""
        where = f"{self.result} of {self.sequence}"
        lines = []
        if self.mean_iou < limits.mean_iou:
            lines.append(f"{where}: mean IoU {self.mean_iou:.5f} (limit {limits.mean_iou:g})")
        below = sum(frame.iou < limits.frame_iou for frame in self.frames)
        if below:
            worst = self.worst_frame
            others = f", and {below - 1} more frames below" if below > 1 else ""
            iou = f"frame {worst.name} IoU {worst.iou:.5f} (limit {limits.frame_iou:g})"
            lines.append(f"{where}: {iou}, {worst.weakest}{others}")
        if limits.ids and self.renamed:
            names = ", ".join(f"{a} of A is {b} of B" for a, b in self.renamed.items())
            lines.append(f"{where}: the same objects under other ids: {names}")
        return lines


def sequence_agreement(
    sequence: str, result: str, frames: Sequence[str], read: ReadPair
) -> SequenceAgreement:
    """Compare two sequences of label maps, objects matched over the whole video by IoU, with the Hungarian method.

    Args:
        sequence: name of the video.
        result: which result, `mos` say.
        frames: names of the frames.
        read: gives both label maps of a frame; called twice for frames that differ.

    Raises:
        GmosError: there is no frame, or the maps of a frame have different sizes.
    """
    if not frames:
        raise GmosError(f"{result} of {sequence}: no frames to compare; expected at least one on both sides")
    counts = []
    total = np.zeros((256, 256), np.int64)
    for index, name in enumerate(frames):
        a, b = read(index)
        if a.shape != b.shape:
            raise GmosError(
                f"{result} of {sequence}, frame {name}: A is {a.shape[1]}x{a.shape[0]} and B {b.shape[1]}x{b.shape[0]};"
                " expected results of the same video"
            )
        joint = joint_histogram(a, b)
        total += joint
        counts.append(pair_counts(joint))
    objects = match_objects(total)
    return SequenceAgreement(
        sequence=sequence,
        result=result,
        matching={a: b for a, b in objects if a is not None and b is not None},
        only_a=tuple(a for a, b in objects if a is not None and b is None),
        only_b=tuple(b for a, b in objects if a is None and b is not None),
        frames=tuple(
            _frame(name, counts[index], objects, maps=partial(read, index))
            for index, name in enumerate(frames)
        ),
    )


def match_objects(counts: npt.NDArray[np.int64]) -> list[Pair]:
    """Objects on both sides: those matched one to one, then those of A alone, then those of B alone.

    The matching has the greatest sum of IoUs; objects that never overlap stay unmatched.

    Args:
        counts: (256, 256), pixels by label in A and in B.
    """
    sizes_a, sizes_b = counts.sum(axis=1), counts.sum(axis=0)
    in_a, in_b = ([int(label) for label in np.flatnonzero(sizes) if label] for sizes in (sizes_a, sizes_b))
    both = counts[np.ix_(in_a, in_b)]
    either = sizes_a[in_a][:, None] + sizes_b[in_b][None, :] - both
    rows, columns = linear_sum_assignment(both / np.maximum(either, 1), maximize=True)
    pairs = zip(rows, columns, strict=True)
    matching = {in_a[row]: in_b[column] for row, column in pairs if both[row, column]}
    only_a = [(label, None) for label in in_a if label not in matching]
    only_b = [(None, label) for label in in_b if label not in matching.values()]
    return [*matching.items(), *only_a, *only_b]


def pair_counts(counts: npt.NDArray[np.int64]) -> PairCounts:
    """Pixels by pair of labels, for the pairs that occur: small enough to keep for every frame."""
    return {(int(a), int(b)): int(counts[a, b]) for a, b in np.argwhere(counts)}


def overlaps(counts: PairCounts, objects: Sequence[Pair]) -> tuple[list[ObjectAgreement], int]:
    """The objects that either side has on a frame, their boundaries left out, and how many of its pixels differ."""
    sizes: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    for labels, pixels in counts.items():
        for size, label in zip(sizes, labels, strict=True):
            size[label] += pixels
    found, same = [], counts.get((0, 0), 0)
    for a, b in objects:
        in_a, in_b = (0 if label is None else size[label] for size, label in zip(sizes, (a, b), strict=True))
        both = 0 if a is None or b is None else counts.get((a, b), 0)
        same += both
        if in_a or in_b:
            iou = both / (in_a + in_b - both)
            found.append(ObjectAgreement(a=a, b=b, iou=iou, boundary_f=1.0, pixels_a=in_a, pixels_b=in_b))
    return found, sum(counts.values()) - same


def _frame(
    name: str, counts: PairCounts, objects: Sequence[Pair], *, maps: Callable[[], tuple[Labels, Labels]]
) -> FrameAgreement:
    found, different = overlaps(counts, objects)
    if different:
        labels = maps()
        found = [one if one.iou == 1 else replace(one, boundary_f=_boundary_f(labels, one)) for one in found]
    return FrameAgreement(name=name, pixels=sum(counts.values()), different=different, objects=tuple(found))


def _boundary_f(maps: tuple[Labels, Labels], one: ObjectAgreement) -> float:
    a, b = (
        np.zeros(labels.shape, bool) if label is None else np.asarray(labels == label)
        for labels, label in zip(maps, (one.a, one.b), strict=True)
    )
    return boundary_f(a, b)
