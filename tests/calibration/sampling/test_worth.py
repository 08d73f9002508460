"""Samples that a network can hardly be calibrated on are told from those that it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gmos_deploy.calibration.sampling.sample_store import Sample
from gmos_deploy.calibration.sampling.worth import doubts

DRAW = np.random.default_rng(0)
PICTURE = DRAW.integers(0, 255, (3, 16, 16)).astype(np.float16)


def samples(folder: Path, *pictures: object) -> list[Sample]:
    """One for each picture, beside an input that never changes."""
    made = []
    for index, picture in enumerate(pictures):
        path = folder / f"{index}.npz"
        np.savez(path, frames=picture, size=np.array([4, 4]))
        made.append(Sample(path=path, video="clip", index=index, kind=()))
    return made


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        ([PICTURE + step for step in range(8)], []),
        ([np.zeros_like(PICTURE)] * 8, ["the same in every call"]),
        ([PICTURE] * 8, ["the same in every call"]),
        # One bit of noise over a picture that stands still.
        ([PICTURE * np.float16(1 + 2**-10 * (step % 2)) for step in range(8)], ["the same in every call"]),
        # Networks of the tracker have inputs of other lengths from call to call.
        ([PICTURE, PICTURE[:2], PICTURE, PICTURE[:1]], []),
        ([PICTURE, PICTURE + 9, PICTURE + 20], ["3 calls were recorded"]),
        ([np.zeros_like(PICTURE)], ["1 calls were recorded", "the same in every call"]),
        ([], ["never called on these videos"]),
    ],
)
def test_worthless_samples_are_named(tmp_path: Path, pictures: list[object], words: list[str]) -> None:
    """Black and equal frames, and too few calls."""
    found = doubts("dino", samples(tmp_path, *pictures))
    assert len(found) == len(words)
    for line, wanted in zip(found, words, strict=True):
        assert line.startswith("dino: ")
        assert wanted in line
