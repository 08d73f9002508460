"""Where the time of a network goes, layer by layer, as the library that runs it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .contract import NetworkName

LayerClock = Literal["host", "device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """One layer: mean milliseconds of a call of its network.

    `operator` and `provider` in the library's words, `operator` empty where it only gives a name.
    `calls` how often the layer runs within a call, `moved_bytes` what it reads and writes in a call
    (inputs, weights and outputs), None where the library does not say.
    """

    name: str
    operator: str
    provider: str
    ms: float
    calls: float = 1.0
    moved_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTimes:
    """All layers of a network, in the order in which they first run.

    `clock` says where the time was taken: on a device, "host" is what starting the layers took.
    """

    layers: tuple[LayerTime, ...]
    clock: LayerClock
    iterations: int


class TimesLayers(Protocol):
    """A backend that tells the times of layers."""

    def layer_times(
        self,
        network: NetworkName,
        inputs: Mapping[str, Array | NDArray[np.generic]],
        *,
        warm_up: int,
        iterations: int,
    ) -> LayerTimes:
        """Run a network with its library's profiler, in a session or context made for that.

        Args:
            network: of this backend's variant.
            inputs: as its `Runner` takes them.
            warm_up: calls before those that count.
            iterations: calls that count, 1 or more.

        Raises:
            GmosError: the network cannot be loaded, or the profiler says nothing that is known here.
        """
        ...
