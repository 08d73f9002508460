"""Directories of label maps: every layout is found, and what is on one side only is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.compare.label_trees import label_pairs


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes frames `(folder, numbers)` below a directory of the test and returns that directory."""

    def call(name: str, *folders: tuple[str, Iterable[int]]) -> Path:
        for folder, numbers in folders:
            target = tmp_path / name / folder
            target.mkdir(parents=True)
            for number in numbers:
                Image.fromarray(np.full((4, 6), number, np.uint8)).save(target / f"{number:05d}.png")
        return tmp_path / name

    return call


def test_gmos_run_output(write: Callable[..., Path]) -> None:
    """Each result of each video of a gmos-run output is a pair; overlays and probabilities are left out."""
    folders = [("mos_frame/a", range(3)), ("mos_frame/b", range(2)), ("mos-i_frame/a", range(3))]
    one = write("one", *folders, ("prob/a", range(3)))
    pairs = label_pairs(one, write("two", *folders))
    assert {(pair.result, pair.sequence, len(pair.frames)) for pair in pairs} == {
        ("mos", "a", 3),
        ("mos", "b", 2),
        ("mos-i", "a", 3),
    }
    first, second = pairs[0].read(1)
    assert first.max() == second.max() == 1


def test_folders_of_videos(write: Callable[..., Path]) -> None:
    """A folder of PNGs per video, as benchmark results come."""
    pairs = label_pairs(
        write("one", ("cat", range(2)), ("dog", [4])), write("two", ("cat", range(2)), ("dog", [4]))
    )
    assert [(pair.sequence, pair.frames) for pair in pairs] == [
        ("cat", ("00000", "00001")),
        ("dog", ("00004",)),
    ]


def test_results_of_a_hidden_video_are_compared(write: Callable[..., Path]) -> None:
    """`.hid.mp4` has results like any other; other folders with a dot are not asked for."""
    one, two = (write(name, ("mos_frame/.hid", [4])) for name in ("one", "two"))
    assert [(pair.result, pair.sequence) for pair in label_pairs(one, two)] == [("mos", ".hid")]
    cats = (write(name, ("cat", [4]), (".trash", range(number))) for name, number in (("1", 1), ("2", 2)))
    assert [pair.sequence for pair in label_pairs(*cats)] == ["cat"]


def test_frames_of_one_video(write: Callable[..., Path]) -> None:
    """Two folders of frames are compared whatever they are called."""
    (pair,) = label_pairs(write("one", ("", range(2))), write("two", ("", range(2))))
    assert (pair.result, pair.sequence) == ("masks", "one")


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            [("mos_frame/a", range(2))],
            [("mos_frame/a", range(3))],
            "mos of a, frame 00002: in .*two, not in .*one",
        ),
        ([("mos_frame/a", range(4))], [("mos_frame/a", [0])], "mos of a, frame 00001 and 2 more: in .*one"),
        ([("x", [0]), ("y", [0])], [("x", [0]), ("z", [0])], "masks of video y: in .*one, not in .*two"),
        (
            [("mos_frame/a", [0]), ("mos-i_frame/a", [0])],
            [("mos_frame/a", [0])],
            "result mos-i: in .*one, not in .*two",
        ),
        ([("prob/a", [0])], [("mos_frame/a", [0])], r"one has no label maps \(prob/ holds probabilities\)"),
        (
            [("mos_frame/a", [])],
            [("mos_frame/a", [0])],
            "one has no label maps; expected mos-i_frame, mos_frame",
        ),
    ],
)
def test_differences_are_named(
    write: Callable[..., Path], a: list[object], b: list[object], message: str
) -> None:
    """What one side lacks is named, with the side that lacks it."""
    with pytest.raises(GmosError, match=message):
        label_pairs(write("one", *a), write("two", *b))


def test_no_directory(tmp_path: Path) -> None:
    """A path that is not there, or a file."""
    with pytest.raises(GmosError, match="missing does not exist; expected a directory of label-map PNGs"):
        label_pairs(tmp_path / "missing", tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(GmosError, match="file is a file"):
        label_pairs(file, tmp_path)
