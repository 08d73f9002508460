"""Agreement of label maps: planted differences are found, named and located."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.compare.mask_agreement import PROFILES, SequenceAgreement, sequence_agreement

Labels = npt.NDArray[np.uint8]

FRAMES = 6


@pytest.fixture
def video() -> list[Labels]:
    """Two boxes that move; object 2 leaves after frame 3."""
    maps = []
    for index in range(FRAMES):
        labels = np.zeros((48, 64), np.uint8)
        labels[5:25, 4 + index : 24 + index] = 1
        if index < 4:
            labels[28:44, 30:50] = 2
        maps.append(labels)
    return maps


@pytest.fixture
def compare() -> Callable[..., SequenceAgreement]:
    """Compares two lists of label maps."""

    def call(a: Sequence[Labels], b: Sequence[Labels]) -> SequenceAgreement:
        names = [f"{index:05d}" for index in range(len(a))]
        return sequence_agreement("clip", "mos", names, lambda i: (a[i], b[i]))

    return call


def test_equal(video: list[Labels], compare: Callable[..., SequenceAgreement]) -> None:
    """A run agrees with itself in everything, frames without objects included."""
    empty = [*video, np.zeros((48, 64), np.uint8)]
    found = compare(empty, empty)
    assert (found.mean_iou, found.mean_boundary_f, found.different_share) == (1, 1, 0)
    assert found.matching == {1: 1, 2: 2}
    assert [len(frame.objects) for frame in found.frames] == [2, 2, 2, 2, 1, 1, 0]
    assert found.failures(PROFILES["fp32"]) == []


def test_renamed_objects(video: list[Labels], compare: Callable[..., SequenceAgreement]) -> None:
    """Ids swapped in the whole video: the same masks, and the swap is named."""
    swapped = [np.array([0, 2, 1], np.uint8)[labels] for labels in video]
    found = compare(video, swapped)
    assert found.mean_iou == 1
    assert found.different_share == 0
    assert found.renamed == {1: 2, 2: 1}
    assert found.failures(PROFILES["fp32"]) == [
        "mos of clip: the same objects under other ids: 1 of A is 2 of B, 2 of A is 1 of B"
    ]


def test_a_swap_on_one_frame(video: list[Labels], compare: Callable[..., SequenceAgreement]) -> None:
    """Ids swapped on one frame are found on that frame, for both objects."""
    swapped = [*video]
    swapped[2] = np.array([0, 2, 1], np.uint8)[video[2]]
    found = compare(video, swapped)
    assert found.matching == {1: 1, 2: 2}
    assert [frame.iou for frame in found.frames] == [1, 1, 0, 1, 1, 1]
    assert found.worst_frame.name == "00002"
    assert found.frames[2].different == int((video[2] != 0).sum())


def test_a_shifted_mask(video: list[Labels], compare: Callable[..., SequenceAgreement]) -> None:
    """An object moved by one pixel on one frame: its IoU, the pixels, and F within its tolerance."""
    shifted = [labels.copy() for labels in video]
    shifted[1][shifted[1] == 1] = 0
    shifted[1][5:25, 6:26] = 1
    found = compare(video, shifted)
    first, second = found.frames[1].objects
    assert first.iou == pytest.approx(19 / 21)
    assert first.boundary_f == 1
    assert second.iou == 1
    assert found.frames[1].different == 40
    (line,) = found.failures(PROFILES["fp16"])
    assert "frame 00001" in line
    assert "object 1: 0.90476 (400 px in A, 400 px in B)" in line
    assert "mean IoU 0.99206" in found.failures(PROFILES["fp32"])[0]


def test_a_lost_object(video: list[Labels], compare: Callable[..., SequenceAgreement]) -> None:
    """An object that only one side has is 0 where it is, and said to be on that side only."""
    without = [np.where(labels == 2, 0, labels).astype(np.uint8) for labels in video]
    found = compare(video, without)
    assert found.only_a == (2,)
    assert [frame.iou for frame in found.frames] == [0.5] * 4 + [1, 1]
    assert found.frames[0].objects[1].boundary_f == 0
    assert "object 2 is in A only (320 px)" in found.failures(PROFILES["fp16"])[1]
    assert compare(without, video).only_b == (2,)


def test_many_below(video: list[Labels], compare: Callable[..., SequenceAgreement]) -> None:
    """The line that names the worst frame says how many others are below the limit."""
    other = [np.roll(labels, 10, axis=1) for labels in video]
    assert "and 5 more frames below" in compare(video, other).failures(PROFILES["int8"])[1]


def test_matching_is_over_the_video(compare: Callable[..., SequenceAgreement]) -> None:
    """The matching has the greatest sum of IoUs, not the first or the largest overlap."""
    a, b = np.zeros((1, 100), np.uint8), np.zeros((1, 100), np.uint8)
    a[0, :60], a[0, 60:80] = 1, 2
    b[0, 20:60], b[0, :20], b[0, 60:80] = 1, 2, 2
    assert compare([a], [b]).matching == {1: 1, 2: 2}
    b[0, :60], b[0, 60:80] = 5, 1
    assert compare([a], [b]).matching == {1: 5, 2: 1}


def test_label_255(compare: Callable[..., SequenceAgreement]) -> None:
    """The largest label is a label like any other."""
    a = np.full((4, 4), 255, np.uint8)
    assert compare([a], [a]).matching == {255: 255}
    assert compare([a], [a]).mean_iou == 1


def test_other_size(video: list[Labels], compare: Callable[..., SequenceAgreement]) -> None:
    """Maps of another size cannot be compared."""
    with pytest.raises(GmosError, match="frame 00000: A is 64x48 and B 32x48; expected results of the same"):
        compare(video, [labels[:, ::2] for labels in video])


def test_no_frames(compare: Callable[..., SequenceAgreement]) -> None:
    """Nothing to compare is no agreement."""
    with pytest.raises(GmosError, match="no frames to compare"):
        compare([], [])
