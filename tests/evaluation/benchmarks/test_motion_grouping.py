"""The motion-grouping protocol: merged J, SegTrackv2's and FBMS-59's own files, MoCA's boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.benchmarks.motion_grouping import (
    box_iou,
    fbms_annotations,
    foreground_box,
    foreground_j,
    read_boxes,
    read_fbms_mask,
    read_merged_annotation,
)


def test_two_empty_masks_score_zero() -> None:
    """Unlike DAVIS, the protocol gives nothing for agreeing on nothing."""
    empty, one = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    assert foreground_j(empty, empty) == 0
    assert foreground_j(one, one) == pytest.approx(1)
    assert foreground_j(one, np.ones((3, 3), bool)) == pytest.approx(1 / 3)


def test_object_files_are_merged(tmp_path: Path) -> None:
    """One mask file per object makes one foreground; sizes must agree."""
    paths = []
    for index, values in enumerate(([0, 255, 0], [0, 0, 255])):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(np.array([values], np.uint8)).save(paths[-1])
    merged = read_merged_annotation(tuple(paths), fbms=False, sequence="s")
    assert merged.tolist() == [[False, True, True]]
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(paths[1])
    with pytest.raises(GmosError, match=r"0\.png: the masks of this frame's objects differ in size"):
        read_merged_annotation(tuple(paths), fbms=False, sequence="s")


def test_fbms_files_are_numbered_from_one(tmp_path: Path) -> None:
    """The last number of a name is the frame's position; PPM files go before PGM, PROB ones are left out."""
    names = [f"cars1_{index:02d}" for index in range(1, 6)]
    for stem in ("cars1_001_gt", "cars1_005_gt"):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{stem}.ppm")
    Image.new("RGB", (2, 2)).save(tmp_path / "cars1_002_PROB_gt.ppm")
    Image.new("L", (2, 2)).save(tmp_path / "cars1_003.pgm")
    assert [name for name, _ in fbms_annotations(tmp_path, names)] == ["cars1_01", "cars1_05"]
    Image.new("RGB", (2, 2)).save(tmp_path / "cars1_009_gt.ppm")
    with pytest.raises(GmosError, match=r"cars1_009_gt\.ppm: expected a name that ends in .* 1 to 5"):
        fbms_annotations(tmp_path, names)


def test_fbms_grey_levels(tmp_path: Path) -> None:
    """White is background in PPM files only, and two sequences have levels of their own."""
    grey = np.array([[0, 15, 60, 130, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.pgm")
    Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(tmp_path / "a.ppm")
    assert read_fbms_mask(tmp_path / "a.pgm", "cars1").tolist() == [[False, False, True, True, True]]
    assert read_fbms_mask(tmp_path / "a.ppm", "cars1").tolist() == [[False, False, True, True, False]]
    assert read_fbms_mask(tmp_path / "a.pgm", "marple7").tolist() == [[False, True, True, True, True]]
    assert read_fbms_mask(tmp_path / "a.pgm", "marple2").tolist() == [[False, False, False, True, True]]


def naive_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The largest rectangle around an 8-connected piece, by flood fill in reading order."""
    left, best = {(int(y), int(x)) for y, x in np.argwhere(mask)}, None
    for start in sorted(left):
        if start not in left:
            continue
        piece, open_pixels = set(), [start]
        while open_pixels:
            y, x = open_pixels.pop()
            if (y, x) in left:
                left.discard((y, x))
                piece.add((y, x))
                open_pixels += [(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        rows, columns = [y for y, _ in piece], [x for _, x in piece]
        box = min(columns), min(rows), max(columns) + 1, max(rows) + 1
        area = (box[2] - box[0]) * (box[3] - box[1])
        if best is None or area >= best[0]:
            best = area, box
    return best[1] if best else None


@given(grey=arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 0, 25, 26, 127, 128, 255])))
@settings(max_examples=80, deadline=None)
def test_largest_box_equals_the_naive_one(grey: NDArray[np.uint8]) -> None:
    """Threshold, inversion and pieces that touch at corners."""
    box, inverted = foreground_box(grey)
    border = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    assert inverted == ((border > 127.5).mean() > 0.5)
    assert box == naive_box((255 - grey if inverted else grey) > 25.5)


def test_box_iou_of_continuous_boxes() -> None:
    """Boxes that only touch do not overlap."""
    assert box_iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert box_iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 2, 2), (2, 0, 3, 2)) == 0


def test_boxes_of_both_releases_are_read(tmp_path: Path) -> None:
    """The filtered list and the original export say the same; x and y are clipped, w and h are not moved."""
    filtered = tmp_path / "filtered.csv"
    filtered.write_text(
        ",file_list,spatial_coordinates,metadata\n"
        "0,/crab/00000.jpg,\"[2,-4,10,30,20]\",{'1': '0'}\n"
        "1,/crab/00001.jpg,[],{}\n"
    )
    original = tmp_path / "original.csv"
    original.write_text(
        "# Exported using VGG Image Annotator, /crab/00009.jpg\n"
        '1_x,"[""/crab/00000.jpg""]",0,[],"[2,-4,10,30,20]","{""1"":""0""}"\n'
    )
    expected = {"crab": {"00000": (0.0, 10.0, 30.0, 30.0)}}
    assert read_boxes(filtered) == (expected, {"clipped_boxes": 1, "unreadable_box_rows": 1})
    assert read_boxes(original)[0] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a,b\n", "no boxes: expected rows with a frame's path"), (b"\xff\xfe", "cannot read the box CSV")],
)
def test_csv_without_boxes_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Another CSV is no box list."""
    path = tmp_path / "boxes.csv"
    path.write_bytes(content)
    with pytest.raises(GmosError, match=message):
        read_boxes(path)
