"""What benchmarks of streams look at: the drawn clip there and back, a camera that keeps its own time, networks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.networks import NetworkChoice
from gmos_deploy.runtime.backend import Backend
from gmos_deploy.runtime.contract import Variant
from gmos_deploy.runtime.live.sources.source import LiveInput, Picture
from gmos_deploy.runtime.video.drawn_clip import drawn_clip
from gmos_deploy.sides import parse_side


def scene(size_wh: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """A loop of frames (H, W, 3) uint8."""
    there = [np.asarray(Image.fromarray(frame).resize(size_wh)) for frame in drawn_clip()]
    return there + there[-2:0:-1]


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "320x180"."""
    width, _, height = text.partition("x")
    return int(width), int(height)


def load(text: str) -> Backend:
    """Networks of a side as gmos-profile takes it, or nano:VARIANT, the small model on ONNX Runtime.

    Raises:
        GmosError: they cannot be used.
    """
    kind, _, variant = text.partition(":")
    if kind != "nano":
        return parse_side("--side", text).load()
    return NetworkChoice(variant=cast("Variant", variant), backend="onnxruntime").resolve().load()


class PacedCamera:
    """Gives frames at their times, like a camera: whoever is late gets them late, with the time at which they were due.

    Args:
        fps: frames per second.
        seconds: how long.
        size_wh: width and height in pixels.
    """

    pixel_aspect = Fraction(1)

    def __init__(self, fps: float, seconds: float, size_wh: tuple[int, int]) -> None:
        self.rate_fps: float | None = fps
        self._fps = fps
        self._count = round(fps * seconds)
        self._loop = scene(size_wh)

    def __enter__(self) -> PacedCamera:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def __iter__(self) -> Iterator[Picture]:
        """See `PictureReader`."""
        start_s = time.monotonic()
        for index in range(self._count):
            due_s = start_s + index / self._fps
            time.sleep(max(0.0, due_s - time.monotonic()))
            yield Picture(rgb=self._loop[index % len(self._loop)], time_s=index / self._fps, arrival_s=due_s)

    def source(self) -> LiveInput:
        """As a live source, which loses what nobody takes in time."""
        return LiveInput(
            kind="paced camera", name="paced", shown="paced camera", open=lambda _: self, returns=False
        )
