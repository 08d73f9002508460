"""COCO, YouTube-VIS, YOLO and npz read back by the libraries that people read them with: the masks are the PNGs'."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.contract import Variant

Filed = Callable[..., Path]
Scene = dict[str, NDArray[np.uint8]]

YOLO_IOU = {1: 0.95, 2: 0.75, 3: 1.0}
"""Least IoU of a polygon and its mask by object: parts cost their bridges, or are left out where these are longer; the
second has a fifth of its pixels far away."""
YOLO_FOREGROUND_IOU = 0.9
"""Of both together: the larger part takes the others in."""

RESULTS: list[tuple[Variant, str, str]] = [
    ("gmos", "mos-i", "mos-i_"),
    ("gmos", "mos", "mos_"),
    ("gmos-s", "foreground", ""),
]
# pycocotools 2.0.11: decode() meets NumPy 2's `copy` with an array class of before; can go when it does not.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
each_result = pytest.mark.parametrize(("variant", "result", "prefix"), RESULTS)


def pngs(place: Path, prefix: str) -> NDArray[np.uint8]:
    """The label maps (N, H, W) of the PNGs beside a result."""
    maps = []
    for path in sorted((place / f"{prefix}frame" / "bear").glob("*.png")):
        with Image.open(path) as image:
            maps.append(np.asarray(image))
    return np.stack(maps)


@each_result
def test_coco(filed: Filed, variant: Variant, result: str, prefix: str) -> None:
    """`pycocotools.COCO` opens it; every annotation is an object of a PNG, and every object has one."""
    coco = pytest.importorskip("pycocotools.coco")
    place = filed("coco", "mask", variant=variant)
    with contextlib.redirect_stdout(io.StringIO()):
        read = coco.COCO(str(place / f"{prefix}coco" / "bear.json"))
    labels = pngs(place, prefix)
    assert [read.imgs[number]["file_name"] for number in sorted(read.imgs)] == [
        f"{index:05d}.jpg" for index in range(5)
    ]
    for number, image in read.imgs.items():
        again = np.zeros(labels.shape[1:], np.uint8)
        for one in read.loadAnns(read.getAnnIds(imgIds=[number])):
            mask = read.annToMask(one).astype(bool)
            again[mask] = one["track_id"]
            x, y, width, height = one["bbox"]
            assert (one["video_id"], one["category_id"], one["iscrowd"]) == (1, 1, 0)
            assert one["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()
        np.testing.assert_array_equal(again, labels[image["frame_id"]])
    if variant == "gmos":
        moving = {
            (one["image_id"], one["track_id"]): one["attributes"]["moving"] for one in read.anns.values()
        }
        assert [moving[image, 1] for image in (1, 2)] == [True, True]
        assert moving.get((3, 1)) is (None if result == "mos-i" else False)


def test_coco_evaluates_itself(filed: Filed) -> None:
    """Taken as its own ground truth it scores 1: ids, sizes and RLEs are as the evaluation wants them."""
    coco = pytest.importorskip("pycocotools.coco")
    judge = pytest.importorskip("pycocotools.cocoeval")
    path = filed("coco") / "mos_coco" / "bear.json"
    found = [
        {**one, "score": one["score"] or 0.5}
        for one in json.loads(path.read_text(encoding="utf-8"))["annotations"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(path))
        scores = judge.COCOeval(truth, truth.loadRes(found), "segm")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    assert scores.stats[0] == pytest.approx(1)


@each_result
def test_youtube_vis(filed: Filed, variant: Variant, result: str, prefix: str) -> None:
    """One annotation an object; its masks as pycocotools decodes them."""
    judge = pytest.importorskip("pycocotools.mask")
    place = filed("ytvis", "mask", variant=variant)
    document = json.loads((place / f"{prefix}ytvis" / "bear.json").read_text(encoding="utf-8"))
    labels = pngs(place, prefix)
    (video,) = document["videos"]
    assert video["file_names"] == [f"bear/{index:05d}.jpg" for index in range(5)]
    assert (video["length"], video["height"], video["width"]) == labels.shape
    again = np.zeros_like(labels)
    for one in document["annotations"]:
        assert (one["video_id"], one["category_id"]) == (1, 1)
        for index, (rle, box, area) in enumerate(
            zip(one["segmentations"], one["bboxes"], one["areas"], strict=True)
        ):
            assert (rle is None) == (box is None) == (area is None)
            if rle is not None:
                again[index][judge.decode(rle).astype(bool)] = one["id"]
                assert (area, box) == (judge.area(rle), judge.toBbox(rle).tolist())
    np.testing.assert_array_equal(again, labels)


@each_result
def test_npz(filed: Filed, scene: Scene, variant: Variant, result: str, prefix: str) -> None:
    """`numpy.load` without pickles; tables by frame and object."""
    place = filed("npz", variant=variant)
    with np.load(place / f"{prefix}npz" / "bear.npz") as file:
        arrays = dict(file)
    np.testing.assert_array_equal(arrays["labels"], scene[result])
    np.testing.assert_array_equal(arrays["times_s"], np.arange(5) / 10)
    assert arrays["ids"].tolist() == [int(label) for label in np.unique(scene[result]) if label]
    for column, number in enumerate(arrays["ids"]):
        areas = (scene[result] == number).sum(axis=(1, 2))
        np.testing.assert_array_equal(arrays["areas"][:, column], areas)
        np.testing.assert_array_equal(arrays["visible"][:, column], areas > 0)
    x0, y0, x1, y1 = arrays["boxes"][0, 0]
    assert (arrays["labels"][0] == arrays["ids"][0])[y0:y1, x0:x1].sum() == arrays["areas"][0, 0]
    if variant == "gmos":
        np.testing.assert_array_equal(arrays["moving"][:, 0], [True, True, False, True, False])
        assert arrays["ious"][0, 0] == (0.5 if result == "mos-i" else 0.625)
    assert np.isnan(arrays["ious"][4]).all()


def test_files_are_the_same_bytes_again(filed: Filed) -> None:
    """No dates, no order of chance."""
    modes = ("tracks", "coco", "ytvis", "yolo", "npz")

    def contents() -> dict[Path, bytes]:
        place = filed(*modes)
        return {
            path: path.read_bytes()
            for path in place.rglob("*")
            if path.is_file() and path.parts[-2] != ".gmos"
        }

    first = contents()
    assert len(first) == 2 * (2 + 1 + 1 + 6 + 1)
    assert contents() == first


@each_result
def test_yolo(filed: Filed, tmp_path: Path, variant: Variant, result: str, prefix: str) -> None:
    """Labels beside their frames, read by supervision: an instance an object, its mask but for bridges."""
    pytest.importorskip("cv2")
    supervision = pytest.importorskip("supervision")
    place = filed("yolo", "mask", variant=variant)
    labels = pngs(place, prefix)
    folder = place / f"{prefix}yolo" / "bear"
    images = tmp_path / "images"
    images.mkdir()
    for index, one in enumerate(labels):
        Image.fromarray(one).convert("RGB").save(images / f"{index:05d}.jpg")
    read = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(images),
        annotations_directory_path=str(folder / "labels"),
        data_yaml_path=str(folder / "data.yaml"),
        force_masks=True,
    )
    assert read.classes == ["object"]
    for index, one in enumerate(labels):
        found: Any = read.annotations[str(images / f"{index:05d}.jpg")]
        ids = [int(label) for label in np.unique(one) if label]
        assert len(found) == len(ids)
        for number, mask in zip(ids, found.mask if ids else (), strict=True):
            truth = one == number
            iou = (mask & truth).sum() / (mask | truth).sum()
            assert iou >= (YOLO_IOU[number] if variant == "gmos" else YOLO_FOREGROUND_IOU)


def test_yolo_labels_are_called_as_the_frames(filed: Filed) -> None:
    """Whatever their names are; a frame without objects has an empty file."""
    names = tuple(f"{letter}.v2.png" for letter in "vwxyz")
    folder = filed("yolo", frame_names=names) / "mos_yolo" / "bear" / "labels"
    assert sorted(path.name for path in folder.iterdir()) == [f"{letter}.v2.txt" for letter in "vwxyz"]
    assert (folder / "z.v2.txt").read_bytes() == b""
    assert len((folder / "v.v2.txt").read_text().splitlines()) == 2


def test_yolo_labels_of_two_frames_are_two_files(filed: Filed) -> None:
    """Said before the networks run, and nothing is filed: one label file cannot be two frames'."""
    names = ("a.jpg", "b.jpg", "b.png", "c.jpg", "d.jpg")
    with pytest.raises(
        GmosError, match=r"clips/bear has 'b' with several endings.*leave yolo out of --save-mode"
    ):
        filed("yolo", frame_names=names, source="clips/bear")
