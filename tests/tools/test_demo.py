"""The demo: which frames its contact sheets show, and which clips."""

from __future__ import annotations

from pathlib import Path

import demo
import numpy as np
import pytest
from PIL import Image


def write_masks(folder: Path, shares: list[float]) -> Path:
    """Label maps of 10x10, of which that share is an object."""
    folder.mkdir()
    for index, share in enumerate(shares):
        mask = np.zeros((10, 10), np.uint8)
        mask.reshape(-1)[: round(100 * share)] = 1 + index % 3
        Image.fromarray(mask).save(folder / f"{index:05d}.png")
    return folder


def test_frames_are_those_that_agree(tmp_path: Path) -> None:
    """In their order, apart from each other, whatever the ids; empty frames come last."""
    first = write_masks(tmp_path / "a", [0.5] * 40)
    shares = [0.0] * 40
    for index, share in {3: 0.5, 4: 0.5, 12: 0.45, 30: 0.4, 36: 0.3, 33: 0.39}.items():
        shares[index] = share
    second = write_masks(tmp_path / "b", shares)
    assert demo.best_agreed([first, second]) == [3, 12, 30, 36]


def test_a_short_clip_has_fewer_columns(tmp_path: Path) -> None:
    """Each of its frames once."""
    folders = [write_masks(tmp_path / name, [0.2, 0.4]) for name in "ab"]
    assert demo.best_agreed(folders) == [0, 1]


@pytest.mark.parametrize("file", demo.CLIPS.values())
def test_the_clips_are_there(file: str) -> None:
    """In the wheel that the tests' environment has."""
    assert demo.clip_path(file).is_file()
