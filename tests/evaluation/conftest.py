"""Small trees of label maps on disk, and a runner for the gmos-eval commands."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.evaluation.commands import evaluate
from gmos_deploy.runtime.palette import davis_palette

Labels = NDArray[np.uint8]
WriteMap = Callable[[Path, Labels], Path]
WriteTree = Callable[[Path, Sequence[Labels]], list[Path]]
RunEval = Callable[..., Result]


@pytest.fixture(scope="session")
def golden() -> Path:
    """The stored outputs of the published implementations."""
    return Path(__file__).parents[1] / "golden"


def _write_map(path: Path, labels: Labels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8)).convert("L")
    image.putpalette(davis_palette().ravel().tolist())
    image.save(path)
    return path


@pytest.fixture(scope="session")
def write_map() -> WriteMap:
    """Writes one palette PNG with the DAVIS palette."""
    return _write_map


@pytest.fixture(scope="session")
def write_tree() -> WriteTree:
    """Writes label maps as 00000.png, 00001.png, … of one folder."""

    def write(folder: Path, frames: Sequence[Labels]) -> list[Path]:
        return [_write_map(folder / f"{index:05d}.png", labels) for index, labels in enumerate(frames)]

    return write


@pytest.fixture(scope="session")
def square() -> Callable[..., Labels]:
    """A 12x16 map of labelled squares, given as (label, top, left, side)."""

    def draw(*squares: tuple[int, int, int, int], hw: tuple[int, int] = (12, 16)) -> Labels:
        labels = np.zeros(hw, np.uint8)
        for label, top, left, side in squares:
            labels[top : top + side, left : left + side] = label
        return labels

    return draw


@pytest.fixture
def write_csv() -> Callable[[Path, list[tuple[str, str]]], Path]:
    """Writes a two-column motion-annotation CSV."""

    def write(path: Path, rows: list[tuple[str, str]]) -> Path:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("seq_name", "time_anno"), *rows])
        return path

    return write


@pytest.fixture
def run_eval() -> RunEval:
    """Runs gmos-eval in this process; an error that is not the user's fails the test."""

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(evaluate, [str(argument) for argument in arguments])
        if result.exception and not isinstance(result.exception, (GmosError, SystemExit)):
            raise result.exception
        return result

    return run
