"""A backend whose network calls are watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array
from ..backend import Backend, Runner
from ..contract import NetworkName

Saw = Callable[[NetworkName, Mapping[str, Array], Mapping[str, Array]], None]
"""Gets a network with its inputs and outputs, as the backend keeps them: valid during the call only."""


class WatchedBackend:
    """A backend that shows every network call, those of the pipeline's tracker too: it brings none of its own."""

    def __init__(self, backend: Backend, saw: Saw) -> None:
        self._backend = backend
        self._saw = saw
        self.model, self.description, self.arrays = backend.model, backend.description, backend.arrays

    def runner(self, network: NetworkName) -> Runner:
        """The other backend's runner, watched."""
        run = self._backend.runner(network)

        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            outputs = run(inputs)
            self._saw(network, inputs, outputs)
            return outputs

        return call

    def close(self) -> None:
        """Close the other backend."""
        self._backend.close()
