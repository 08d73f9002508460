"""What the sites of a network see over its samples: magnitudes, channels, and a few rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import GmosError
from .linears import Site
from .network_trial import NetworkTrial
from .ranges import MagnitudeHistogram
from .sample_store import Sample

ROWS = 512
"""Rows of a site that are kept, over all samples, to try a choice on."""

SITES_PER_PASS = 48
"""Tensors that a run gives out at once: of the published decoder they are a gigabyte."""


class SiteStatistics:
    """Statistics of one tensor (..., K) over a stream of calls."""

    def __init__(self, rows_per_call: int) -> None:
        self.histogram = MagnitudeHistogram()
        self.channels: NDArray[np.float32] = np.zeros(0, np.float32)
        """The greatest magnitude of each channel."""
        self._rows_per_call = rows_per_call
        self._rows: list[NDArray[np.float32]] = []

    @property
    def rows(self) -> NDArray[np.float32]:
        """Rows (n, K), spread evenly over the calls and over each call."""
        return np.concatenate(self._rows)

    def add(self, values: NDArray[Any]) -> None:
        """Take the tensor of a call into account."""
        rows = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
        self.histogram.add(rows)
        if not len(rows):
            return
        largest = np.abs(rows).max(axis=0)
        self.channels = np.maximum(self.channels, largest) if self.channels.size else largest
        chosen = np.linspace(0, len(rows) - 1, min(self._rows_per_call, len(rows))).astype(int)
        self._rows.append(rows[chosen])


def collect(
    trial: NetworkTrial, sites: Sequence[Site], samples: Sequence[Sample]
) -> Mapping[str, SiteStatistics]:
    """Run a network on its samples and see what its sites see.

    Raises:
        GmosError: a sample cannot be read, or a site has values that are not finite.
    """
    found = {site.name: SiteStatistics(-(-ROWS // len(samples))) for site in sites}
    names = list(found)
    for start in range(0, len(names), SITES_PER_PASS):
        part = names[start : start + SITES_PER_PASS]
        model = trial.model()
        _give_out(model.graph, part)
        with trial.session(model) as run:
            for sample in samples:
                outputs = run(sample.load())
                for name in part:
                    found[name].add(outputs[name])
    for name, statistics in found.items():
        if statistics.histogram.not_finite:
            raise GmosError(
                f"{trial.name}: {statistics.histogram.not_finite} values of {name} are not finite on these videos; "
                "compare the bundle with gmos-parity networks, or leave the network out of --networks"
            )
    return found


def _give_out(graph: ir.Graph, names: Iterable[str]) -> None:
    values = {value.name: value for node in graph for value in node.outputs}
    values |= {value.name: value for value in graph.inputs}
    outside = {value.name for value in graph.outputs}
    for name in names:
        value = values[name]
        if value.name in outside or value.is_graph_input():
            # An input cannot be an output as it is.
            copy = ir.node("Identity", [value])
            copy.outputs[0].name = f"{name}.seen"
            graph.append(copy)
            value = copy.outputs[0]
        value.type = ir.TensorType(ir.DataType.FLOAT16)
        graph.outputs.append(value)
