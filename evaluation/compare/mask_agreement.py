"""How far two runs' label maps of one video agree: object by object, frame by frame."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from ...errors import GmosError
from ..benchmarks.boundary import boundary_tolerance_px, contour, contour_f

Labels = npt.NDArray[np.uint8]
ReadPair = Callable[[int], tuple[Labels, Labels]]
"""The label maps (H, W) of both sides at a position."""

VALUES = 256


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
    """One frame. `different` counts pixels whose labels differ once objects are matched."""

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


@dataclass(frozen=True, kw_only=True)
class SequenceAgreement:
    """One result of one video. `matching` gives A's labels the label of the same object in B."""

    sequence: str
    result: str
    matching: Mapping[int, int]
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    frames: tuple[FrameAgreement, ...]

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
        """The frame with the least IoU, the earliest of several."""
        return min(self.frames, key=lambda frame: frame.iou)

    @property
    def different_share(self) -> float:
        """Share of all pixels that differ."""
        pixels = sum(frame.pixels for frame in self.frames)
        return sum(frame.different for frame in self.frames) / pixels

    @property
    def renamed(self) -> dict[int, int]:
        """Objects that both sides have under different labels."""
        return {a: b for a, b in self.matching.items() if a != b}


def sequence_agreement(
    sequence: str, result: str, frames: Sequence[str], read: ReadPair, *, matched: bool = True
) -> SequenceAgreement:
    """Compare two sequences of label maps.

    Args:
        sequence: name of the video.
        result: which result, `mos` say.
        frames: names of the frames.
        read: gives both label maps of a frame; called twice for frames that differ.
        matched: match objects over the whole video by IoU, with the Hungarian method. Otherwise labels
            mean the same objects on both sides.

    Raises:
        GmosError: there is no frame, or the maps of a frame have different sizes.
    """
    if not frames:
        raise GmosError(f"{result} of {sequence}: no frames to compare; expected at least one on both sides")
    counts = []
    for index, name in enumerate(frames):
        a, b = read(index)
        if a.shape != b.shape:
            raise GmosError(
                f"{result} of {sequence}, frame {name}: A is {a.shape[1]}x{a.shape[0]} and B {b.shape[1]}x{b.shape[0]};"
                " expected results of the same video"
            )
        counts.append(_pairs(joint_counts(a, b)))
    total = np.zeros((VALUES, VALUES), np.int64)
    for count in counts:
        for (a_label, b_label), pixels in count.items():
            total[a_label, b_label] += pixels
    in_a, in_b = (_present(total.sum(axis=axis)) for axis in (1, 0))
    matching = (
        match_labels(total, in_a, in_b) if matched else {label: label for label in in_a if label in in_b}
    )
    only_a = tuple(label for label in in_a if label not in matching)
    only_b = tuple(label for label in in_b if label not in matching.values())
    names: list[tuple[int | None, int | None]] = [*matching.items()]
    names += [(label, None) for label in only_a] + [(None, label) for label in only_b]
    return SequenceAgreement(
        sequence=sequence,
        result=result,
        matching=matching,
        only_a=only_a,
        only_b=only_b,
        frames=tuple(
            _frame(name, counts[index], names, matching, maps=partial(read, index))
            for index, name in enumerate(frames)
        ),
    )


def match_labels(counts: npt.NDArray[np.int64], in_a: Sequence[int], in_b: Sequence[int]) -> dict[int, int]:
    """The one-to-one matching with the greatest sum of IoUs; objects that never overlap stay unmatched.

    Args:
        counts: (256, 256), pixels of the whole video by label in A and in B.
        in_a: labels that A has.
        in_b: labels that B has.
    """
    sizes_a, sizes_b = counts.sum(axis=1), counts.sum(axis=0)
    both = counts[np.ix_(in_a, in_b)]
    either = sizes_a[list(in_a)][:, None] + sizes_b[list(in_b)][None, :] - both
    ious = both / np.maximum(either, 1)
    rows, columns = linear_sum_assignment(ious, maximize=True)
    return {
        in_a[row]: in_b[column] for row, column in zip(rows, columns, strict=True) if both[row, column] > 0
    }


def joint_counts(a: Labels, b: Labels) -> npt.NDArray[np.int64]:
    """Pixels by label in A and label in B; (256, 256)."""
    joint = np.bincount(a.astype(np.uint16).ravel() * VALUES + b.ravel(), minlength=VALUES * VALUES)
    return joint.reshape(VALUES, VALUES)


def match_present_labels(counts: npt.NDArray[np.int64]) -> dict[int, int]:
    """`match_labels` of all labels that `counts` has, but 0."""
    return match_labels(counts, *(_present(counts.sum(axis=axis)) for axis in (1, 0)))


def _pairs(counts: npt.NDArray[np.int64]) -> dict[tuple[int, int], int]:
    """Pixels by pair of labels, for the pairs that occur: small enough to keep for every frame."""
    return {(int(a), int(b)): int(counts[a, b]) for a, b in np.argwhere(counts)}


def _present(sizes: npt.NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(label) for label in np.flatnonzero(sizes) if label)


def _frame(
    name: str,
    counts: Mapping[tuple[int, int], int],
    names: Sequence[tuple[int | None, int | None]],
    matching: Mapping[int, int],
    *,
    maps: Callable[[], tuple[Labels, Labels]],
) -> FrameAgreement:
    pixels_a, pixels_b = [0] * VALUES, [0] * VALUES
    same = 0
    for (a, b), pixels in counts.items():
        pixels_a[a] += pixels
        pixels_b[b] += pixels
        if (a == b == 0) or (a and matching.get(a) == b):
            same += pixels
    pixels = sum(pixels_a)
    different = None if same == pixels else maps()
    objects = []
    for a_label, b_label in names:
        size_a = 0 if a_label is None else pixels_a[a_label]
        size_b = 0 if b_label is None else pixels_b[b_label]
        if not size_a and not size_b:
            continue
        both = counts.get((a_label, b_label), 0) if a_label is not None and b_label is not None else 0
        either = size_a + size_b - both
        objects.append(
            ObjectAgreement(
                a=a_label,
                b=b_label,
                iou=both / either,
                boundary_f=1.0
                if both == either or different is None
                else _boundary_f(different, a_label, b_label),
                pixels_a=size_a,
                pixels_b=size_b,
            )
        )
    return FrameAgreement(name=name, pixels=pixels, different=pixels - same, objects=tuple(objects))


def _boundary_f(maps: tuple[Labels, Labels], a_label: int | None, b_label: int | None) -> float:
    tolerance = boundary_tolerance_px((maps[0].shape[0], maps[0].shape[1]))
    sides = [
        contour(np.zeros(labels.shape, bool) if label is None else np.asarray(labels == label), tolerance)
        for labels, label in zip(maps, (a_label, b_label), strict=True)
    ]
    found = contour_f(sides[0], sides[1])
    return found if math.isfinite(found) else 0.0
