"""Statistics of a network's activations over its samples: magnitudes, channels, covariances, and a few rows."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import GmosError
from ..sampling.sample_store import Sample
from ..search.network_trial import Done, NetworkTrial, nothing
from .linear_layers import Activation

Array = NDArray[Any]

RangeMethod = Literal["max", "percentile", "entropy", "best"]

BINS = 2048
"""Of magnitudes; the range doubles when larger ones come, two bins becoming one."""

ENTROPY_BINS, ENTROPY_LEVELS = 512, 128
"""Bins of magnitudes and levels of the search for the least divergence, which tries every bin."""

ROWS = 512
"""Rows of an activation that are kept, over all samples, to try a choice on."""

MOMENT_ROWS = 16384
"""Rows of an activation from which second moments are taken, over all samples: four times the most channels."""

ACTIVATIONS_PER_PASS = 48
"""Activations that a run gives out at once: of the published decoder they are a gigabyte, and their moments as much."""


class MagnitudeHistogram:
    """Counts of magnitudes in bins of equal width. Its size does not grow with the values it has seen."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.top = 0.0
        """Upper edge of the last bin."""
        self.largest = 0.0
        self.not_finite = 0

    def add(self, values: Array) -> None:
        """Count the magnitudes of an array of any shape."""
        magnitudes = np.abs(np.asarray(values, np.float32)).ravel()
        finite = np.isfinite(magnitudes)
        if not finite.all():
            self.not_finite += int(np.count_nonzero(~finite))
            magnitudes = magnitudes[finite]
        largest = float(magnitudes.max(initial=0.0))
        self.largest = max(self.largest, largest)
        if largest == 0.0:
            self.counts[0] += magnitudes.size
            return
        if self.top == 0.0:
            self.top = largest
        while self.top < largest:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate((pairs, np.zeros(BINS // 2, np.int64)))
            self.top *= 2
        self.counts += np.histogram(magnitudes, bins=BINS, range=(0.0, self.top))[0]

    def percentile(self, share: float) -> float:
        """The magnitude that `share` percent of the values do not exceed, up to the width of a bin."""
        total = int(self.counts.sum())
        if not total or self.largest == 0.0:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self.counts), total * share / 100))
        return min((index + 1) * self.top / BINS, self.largest)

    def entropy(self) -> float:
        """The threshold that changes the distribution least, by ONNX Runtime's search."""
        if self.largest == 0.0:
            return 0.0
        from onnxruntime.quantization.calibrate import HistogramCollector  # noqa: PLC0415 - a second to import

        width = BINS // ENTROPY_BINS
        half = self.counts.reshape(-1, width).sum(axis=1)
        # It wants both signs; a distribution of magnitudes has none, so each half is the other's mirror image.
        both = np.concatenate((half[::-1], half))
        edges = np.linspace(-self.top, self.top, len(both) + 1, dtype=np.float32)
        ends = np.float32(-self.largest), np.float32(self.largest)
        collector = HistogramCollector("entropy", True, len(both), ENTROPY_LEVELS, None, None)
        with contextlib.redirect_stdout(io.StringIO()):
            low, high = collector.get_entropy_threshold((both, edges, *ends), ENTROPY_LEVELS)
        return float(min(max(abs(low), abs(high)), self.largest))


class ActivationStatistics:
    """Statistics of one activation (..., K) over a stream of `calls` calls."""

    def __init__(self, calls: int) -> None:
        self.histogram = MagnitudeHistogram()
        self.low: NDArray[np.float32] = np.zeros(0, np.float32)
        """The least value of each channel."""
        self.high: NDArray[np.float32] = np.zeros(0, np.float32)
        """The greatest value of each channel."""
        self._calls = calls
        self._rows: list[NDArray[np.float32]] = []
        self._count = 0
        self._origin: NDArray[np.float32] = np.zeros(0, np.float32)
        self._sum: NDArray[np.float64] = np.zeros(0)
        self._products: NDArray[np.float32] = np.zeros((0, 0), np.float32)

    @property
    def rows(self) -> NDArray[np.float32]:
        """Rows (n, K), spread evenly over the calls and over each call."""
        return np.concatenate(self._rows)

    @property
    def channels(self) -> NDArray[np.float32]:
        """The greatest magnitude of each channel (K,)."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def mean(self) -> NDArray[np.float32]:
        """The mean of each channel (K,), over the rows that moments are taken from."""
        return (self._origin + self._sum / max(self._count, 1)).astype(np.float32)

    def moment(self) -> NDArray[np.float64]:
        """Covariances of the channels (K, K)."""
        mean = self._sum / max(self._count, 1)
        return np.asarray(self._products / max(self._count, 1) - np.outer(mean, mean))

    def add(self, values: NDArray[Any]) -> None:
        """Take the activation of a call into account."""
        rows = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
        self.histogram.add(rows)
        if not len(rows) or self.histogram.not_finite:
            return
        low, high = rows.min(axis=0), rows.max(axis=0)
        if not self._count:
            self.low, self.high = low, high
            # Moments about a point near the mean: means may be far larger than what varies.
            self._origin = rows.mean(axis=0)
            self._sum = np.zeros(rows.shape[1])
            self._products = np.zeros((rows.shape[1], rows.shape[1]), np.float32)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self._rows.append(_spread(rows, -(-ROWS // self._calls)))
        many = _spread(rows, -(-MOMENT_ROWS // self._calls)) - self._origin
        self._count += len(many)
        self._sum += many.sum(axis=0, dtype=np.float64)
        self._products += many.T @ many


def _spread(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Up to `count` rows, evenly over all."""
    chosen: NDArray[np.float32] = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
    return chosen


def calls(activations: Sequence[Activation], samples: Sequence[Sample]) -> int:
    """How often `collect` runs a network."""
    return -(-len(activations) // ACTIVATIONS_PER_PASS) * len(samples)


def collect(
    trial: NetworkTrial, activations: Sequence[Activation], samples: Sequence[Sample], done: Done = nothing
) -> Iterator[tuple[Activation, ActivationStatistics]]:
    """Run a network on its samples for the statistics of its activations, some of them at a time.

    `done` is called after each of `calls(activations, samples)` calls.

    Raises:
        GmosError: a sample cannot be read, or an activation has values that are not finite.
    """
    for part in passes(activations):
        found = {activation.name: (activation, ActivationStatistics(len(samples))) for activation in part}
        model = trial.model()
        _give_out(model.graph, found)
        with trial.session(model) as run:
            for sample in samples:
                outputs = run(sample.load())
                for name, (_, statistics) in found.items():
                    statistics.add(outputs[name])
                done()
        for name, (_, statistics) in found.items():
            if statistics.histogram.not_finite:
                raise GmosError(
                    f"{trial.name}: {statistics.histogram.not_finite} values of {name} are not finite on these "
                    "videos; compare the bundle with gmos-parity networks, or leave the network out of --networks"
                )
        while found:
            yield found.pop(next(iter(found)))


def passes(activations: Sequence[Activation]) -> list[Sequence[Activation]]:
    """Activations that a session gives out together."""
    step = ACTIVATIONS_PER_PASS
    return [activations[start : start + step] for start in range(0, len(activations), step)]


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
