"""What the pipeline asks of whatever runs the networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, Arrays
from .contract import ModelSpec, NetworkName
from .tracker import FrameFeatures, Tracker


class Runner(Protocol):
    """Runs one network."""

    def __call__(self, inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
        """Outputs by name for inputs by name, both as in the network's `NetworkSpec`.

        Inputs are the backend's arrays, except those that the contract marks `host`, which are numpy.
        """
        ...


class Backend(Protocol):
    """All runners of one model on one device, and the arrays between them."""

    @property
    def model(self) -> ModelSpec:
        """Sizes of the networks."""
        ...

    @property
    def description(self) -> str:
        """One line for the summary: backend, device, precision."""
        ...

    @property
    def arrays(self) -> Arrays:
        """What its runners take and give."""
        ...

    def runner(self, network: NetworkName) -> Runner:
        """The runner of a network.

        Raises:
            GmosError: it cannot be loaded on the device.
            KeyError: this variant has no such network.
        """
        ...

    def close(self) -> None:
        """Release the networks and the device memory."""
        ...


@runtime_checkable
class BringsTracker(Protocol):
    """A backend with a mask tracker of its own, in place of the pipeline's."""

    def tracker(
        self,
        features: FrameFeatures,
        *,
        frames: int | None,
        video_hw: tuple[int, int],
        max_conditioning: int | None = None,
        look_back: int = 0,
    ) -> Tracker:
        """A mask tracker over the stored features of one video. GMOS only.

        `frames` is None for a stream, which needs a `LiveTracker`. Of an object's conditioning memories each frame
        reads at most `max_conditioning`; None: all. Prompts may be given, and tracking resumed, up to `look_back`
        frames before the last tracked one.
        """
        ...
