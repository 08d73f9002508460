"""Small trees of label maps on disk, and a runner for the gmos-eval commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.commands.evaluate import evaluate_command
from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.pipeline.memory_tracker import make_tracker
from gmos_deploy.runtime.results.overlay import davis_palette
from gmos_deploy.runtime.tracker import Prompt, TrackerStep

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
def run_eval() -> RunEval:
    """Runs gmos-eval in this process; an error that is not the user's fails the test."""

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(evaluate_command, [str(argument) for argument in arguments])
        if result.exception and not isinstance(result.exception, (GmosError, SystemExit)):
            raise result.exception
        return result

    return run


class Planted:
    """A backend in which one output of one network, or the tracker, is changed."""

    def __init__(self, backend: Any, network: str, output: str, change: Callable[..., Any]) -> None:
        self._backend = backend
        self._planted = (network, output, change)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def runner(self, network: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        run = self._backend.runner(network)
        planted, output, change = self._planted

        def call(inputs: Mapping[str, Any]) -> dict[str, Any]:
            found: dict[str, Any] = run(inputs)
            return {**found, output: change(found[output])} if network == planted else found

        return call

    def tracker(self, *arguments: Any, **named: Any) -> Any:
        tracker = make_tracker(self._backend, *arguments, **named)
        network, _, change = self._planted
        return ChangedTracker(tracker, change) if network == "tracker" else tracker


class ChangedTracker:
    """A tracker whose steps are changed; `passes` counts how often it was reset, so MOS has 1."""

    def __init__(self, tracker: Any, change: Callable[[TrackerStep, int], TrackerStep]) -> None:
        self._tracker = tracker
        self._change = change
        self._passes = 0

    def prompt(self, frame: int, prompts: Sequence[Prompt]) -> TrackerStep:
        return self._change(self._tracker.prompt(frame, prompts), self._passes)

    def add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:
        self._tracker.add_prompts(frame, prompts)

    def propagate(
        self, start: int, *, reverse: bool = False, unprompted: bool = False
    ) -> Iterator[TrackerStep]:
        for step in self._tracker.propagate(start, reverse=reverse, unprompted=unprompted):
            yield self._change(step, self._passes)

    def reset(self) -> None:
        self._passes += 1
        self._tracker.reset()


@pytest.fixture
def plant_change() -> Callable[..., Planted]:
    """Takes a backend, a network (or "tracker"), its output and what changes that."""
    return Planted
