"""Times of an engine's layers: what the library's profiler reports, and what its inspector says they are."""

from __future__ import annotations

import json
from typing import Any

from ...errors import GmosError
from ..layer_times import LayerTime, LayerTimes
from .library import NAMES, TensorRT


class LayerSums:
    """Listens to an execution context and adds up the times of its layers.

    The library waits for the device at the end of every call while somebody listens.
    """

    def __init__(self, library: TensorRT, engine: Any, context: Any) -> None:  # noqa: ANN401 - untyped library
        self._library = library
        self._operators = _operators(library, engine)
        self._ms: dict[str, float] = {}
        self._calls: dict[str, int] = {}
        self._listener = _listener(library.module, self._add)
        context.profiler = self._listener
        context.enqueue_emits_profile = True

    def clear(self) -> None:
        """Forget what was reported so far."""
        self._ms.clear()
        self._calls.clear()

    def times(self, iterations: int) -> LayerTimes:
        """Means over that many calls.

        Raises:
            GmosError: nothing was reported.
        """
        if not self._ms:
            raise GmosError(
                f"{self._library.label} reported no layer times; leave out --layers with this version"
            )
        layers = tuple(
            LayerTime(
                name=name,
                operator=self._operators.get(name, ""),
                provider=NAMES[self._library.flavour],
                ms=ms / iterations,
                calls=self._calls[name] / iterations,
            )
            for name, ms in self._ms.items()
        )
        return LayerTimes(layers=layers, clock="device", iterations=iterations)

    def _add(self, name: str, ms: float) -> None:
        self._ms[name] = self._ms.get(name, 0.0) + ms
        self._calls[name] = self._calls.get(name, 0) + 1


def _listener(module: Any, add: Any) -> Any:  # noqa: ANN401 - untyped library
    class Listener(module.IProfiler):  # type: ignore[misc]
        """Hands on what the library reports."""

        def __init__(self) -> None:
            # The bindings want their own constructor called by name.
            module.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """See the library's `IProfiler`."""
            add(str(layer_name), float(ms))

    return Listener()


def _operators(library: TensorRT, engine: Any) -> dict[str, str]:  # noqa: ANN401 - untyped library
    """Kinds of layers by name, where the engine was built with them; else the plan has names only."""
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(library.module.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        # What the layers are called is enough for their times.
        return {}
    return {
        str(layer["Name"]): str(layer.get("LayerType", ""))
        for layer in layers
        if isinstance(layer, dict) and "Name" in layer
    }
