"""Tracks: every object with its times, its motion and its mask."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.runtime.contract import Variant
from gmos_deploy.runtime.results.rle import encode

Filed = Callable[..., Path]
Scene = dict[str, NDArray[np.uint8]]


def read(folder: Path) -> Any:
    return json.loads((folder / "tracks.json").read_text(encoding="utf-8"))


def test_what_is_known_of_the_video(filed: Filed) -> None:
    """Rate, stride, settings with hashes; the name of the result."""
    document = read(filed("tracks", stride=3, source="clips/bear.mp4") / "mos_tracks/bear")
    assert document["video"] == {
        "name": "bear",
        "source": "clips/bear.mp4",
        "height": 40,
        "width": 56,
        "frames": 5,
        "fps": 10,
        "stride": 3,
    }
    assert (document["format"], document["result"]) == (1, "mos")
    assert document["settings"] == {"bundle": "sha256:0123", "stride": 3}


@pytest.mark.parametrize(
    ("variant", "result", "folder"),
    [
        ("gmos", "mos-i", "mos-i_tracks"),
        ("gmos", "mos", "mos_tracks"),
        ("gmos-s", "foreground", "tracks"),
    ],
)
def test_masks_are_those_of_the_pngs(
    filed: Filed, scene: Scene, variant: Variant, result: str, folder: str
) -> None:
    """Every object of every frame of the result, and none more."""
    frames = read(filed("tracks", variant=variant) / folder / "bear")["frames"]
    assert len(frames) == 5
    for index, (frame, labels) in enumerate(zip(frames, scene[result], strict=True)):
        assert (frame["index"], frame["time_s"], frame["name"]) == (index, index / 10, f"{index:05d}.jpg")
        assert [one["id"] for one in frame["objects"]] == [int(label) for label in np.unique(labels) if label]
        for one in frame["objects"]:
            mask = labels == one["id"]
            x0, y0, x1, y1 = one["box"]
            assert one["rle"] == encode(mask)
            assert one["area"] == mask.sum() == mask[y0:y1, x0:x1].sum()


def test_objects_know_when_they_move(filed: Filed) -> None:
    """Intervals of frames, both ends included; an object that only MOS has never moves."""
    place = filed("tracks")
    assert read(place / "mos_tracks/bear")["objects"] == [
        {"id": 1, "first_frame": 0, "last_frame": 3, "frames": 4, "moving": [[0, 1], [3, 3]]},
        {"id": 2, "first_frame": 0, "last_frame": 3, "frames": 4, "moving": []},
    ]
    assert read(place / "mos-i_tracks/bear")["objects"] == [
        {"id": 1, "first_frame": 0, "last_frame": 3, "frames": 3, "moving": [[0, 1], [3, 3]]},
        {"id": 3, "first_frame": 1, "last_frame": 1, "frames": 1, "moving": [[1, 1]]},
    ]


def test_an_unknown_iou_is_null(filed: Filed) -> None:
    """NaN is no JSON; the foreground has none."""
    frame = read(filed("tracks") / "mos-i_tracks/bear")["frames"][1]
    assert [one["iou"] for one in frame["objects"]] == [0.5, None]
    frame = read(filed("tracks", variant="gmos-s") / "tracks/bear")["frames"][0]
    assert [(one["iou"], one["moving"]) for one in frame["objects"]] == [(None, True)]


def test_the_table_says_the_same(filed: Filed) -> None:
    """A line for every object on every frame; names that hold commas are quoted."""
    names = tuple(f"take 1, {index}.png" for index in range(5))
    folder = filed("tracks", frame_names=names) / "mos_tracks/bear"
    with (folder / "tracks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[1] == {
        "frame": "0",
        "time_s": "0.000000",
        "name": "take 1, 0.png",
        "id": "2",
        "moving": "0",
        "iou": "0.8750",
        "x0": "0",
        "y0": "0",
        "x1": "56",
        "y1": "40",
        "area": str(4 * 5 + 6 * 16 - 2 * 6 + 1),
    }


def test_both_files_belong_to_it(filed: Filed) -> None:
    """A folder that lacks one is not whole."""
    from gmos_deploy.runtime.results.tracks_format import TracksFormat

    folder = filed("tracks") / "mos_tracks/bear"
    assert TracksFormat().is_whole(folder, 5)
    (folder / "tracks.csv").unlink()
    assert not TracksFormat().is_whole(folder, 5)
