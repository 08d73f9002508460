"""A model whose one object is whatever is red: number 5 in slot 1, answered two frames later."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gmos_deploy as gmos
from gmos_deploy.runtime.frame_result import FrameResult, LiveFacts

DELAY = 2


class FakeSession:
    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.size_hw = tuple(size_hw)
        self._waiting: list[FrameResult] = []
        self._index = 0

    def push(self, frame: NDArray[np.uint8], time_s: float) -> list[FrameResult]:
        assert frame.shape == (*self.size_hw, 3)
        assert frame.dtype == np.uint8
        red = np.uint8((frame[..., 0] > 200) & (frame[..., 1:] < 50).all(axis=-1))
        answer = FrameResult(
            index=self._index,
            time_s=time_s,
            maps={"mos-i": red, "tracked": red},
            ious={"mos-i": np.float32([0.5]), "tracked": np.float32([np.nan])},
            ids={1: 5},
            rgb=frame,
            live=LiveFacts(arrival_s=0, answer_s=0),
        )
        self._index += 1
        self._waiting.append(answer)
        return [self._waiting.pop(0)] if len(self._waiting) > DELAY else []

    def finish(self) -> list[FrameResult]:
        left, self._waiting = self._waiting, []
        return left

    def close(self) -> None:
        self._waiting.clear()


class FakeModel:
    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def session(self, size_hw: tuple[int, int], *, fps: float, **_: Any) -> FakeSession:
        assert fps == 10
        return FakeSession(size_hw)

    def close(self) -> None:
        pass


def example(folder: str, name: str) -> ModuleType:
    """An example as a module, on this model."""
    gmos.load = lambda *_, **__: FakeModel()  # type: ignore[assignment]
    found = importlib.util.spec_from_file_location(name, Path(folder) / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
