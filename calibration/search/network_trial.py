"""Runs changed forms of a network's graph on recorded inputs, beside the weights of the bundle."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import GmosError
from ...runtime.bundle.manifest import Bundle
from ...runtime.comparison.parity import OutputDifference, compare_outputs, worst_of
from ...runtime.contract import NetworkName
from ...runtime.onnx.host_graph import HostGraph, bundle_tables
from ...runtime.shapes import call_lengths
from ..sampling.sample_store import Sample

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], dict[str, NDArray[Any]]]

Done = Callable[[], None]
"""Called after each call of a network, for a progress bar."""


def nothing() -> None:
    """Without a progress bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A changed graph against the bundle's own: of each output the worst sample, and the median time of a call.

    Times are of this machine's CPU, without the packed weights of a run proper: only their ratio means something.
    """

    differences: tuple[OutputDifference, ...]
    own_ms: float
    call_ms: float

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Comparison:
        """From what `dataclasses.asdict` makes of one."""
        differences = tuple(OutputDifference(**found) for found in fields["differences"])
        return cls(differences=differences, own_ms=fields["own_ms"], call_ms=fields["call_ms"])


SEEN = ".seen"
"""Ending of an output that only repeats an input."""


class NetworkTrial:
    """A network of a bundle whose graph may be changed; its weights are read where they are."""

    def __init__(self, bundle: Bundle, name: NetworkName) -> None:
        self.name = name
        self._entry = bundle.networks[name]
        self._path = bundle.graph_file(name, "onnxruntime")
        self._tables = bundle_tables(bundle, name)
        self._expected: dict[Path, dict[str, NDArray[Any]]] = {}
        self._seconds: list[float] = []

    def model(self) -> ir.Model:
        """The graph of the bundle, to be changed; its weights stay in their files."""
        return ir.load(self._path)

    @contextmanager
    def session(self, model: ir.Model) -> Iterator[Run]:
        """Run a form of the graph: inputs by name to outputs by name, in float32 or whole numbers."""
        graph = HostGraph(
            ir.to_proto(model).SerializeToString(),
            tables=self._tables,
            folder=self._path.parent,
            precision="fp8" if _has_fp8(model) else self._entry.precision,
        )

        def run(inputs: Arrays) -> dict[str, NDArray[Any]]:
            return {name.removesuffix(SEEN): array for name, array in graph.run(inputs).items()}

        yield run

    def expect(self, samples: Sequence[Sample]) -> None:
        """Compute what the bundle's own graph gives for samples.

        Raises:
            GmosError: it gives values that are not finite.
        """
        missing = [sample for sample in samples if sample.path not in self._expected]
        if not missing:
            return
        with self.session(self.model()) as run:
            for sample in missing:
                self._expected[sample.path], seconds = _timed(run, sample.load())
                self._seconds.append(seconds)
                for name, values in self._expected[sample.path].items():
                    if not np.isfinite(values).all():
                        raise GmosError(
                            f"{self.name} of the bundle itself gives {name} that is not finite on these videos; "
                            "compare it with gmos-parity networks, or leave it out of --networks"
                        )

    def expected(self, sample: Sample) -> dict[str, NDArray[Any]]:
        """What the bundle's own graph gives for a sample."""
        self.expect([sample])
        return self._expected[sample.path]

    def compare(self, model: ir.Model, samples: Sequence[Sample], done: Done = nothing) -> Comparison:
        """How far a changed graph is from the bundle's own; the proposer's queries in any order."""
        self.expect(samples)
        found: dict[str, list[OutputDifference]] = {}
        times = []
        with self.session(model) as run:
            for sample in samples:
                inputs = sample.load()
                given, seconds = _timed(run, inputs)
                times.append(seconds)
                expected, lengths = self._expected[sample.path], self._lengths(inputs)
                for one in compare_outputs(self.name, given, expected, target="onnxruntime", lengths=lengths):
                    found.setdefault(one.output, []).append(one)
                done()
        return Comparison(
            differences=tuple(worst_of(each) for each in found.values()),
            own_ms=1000 * statistics.median(self._seconds),
            call_ms=1000 * statistics.median(times),
        )

    def _lengths(self, inputs: Arrays) -> dict[str, int]:
        return call_lengths(self._entry.inputs, inputs)


def _has_fp8(model: ir.Model) -> bool:
    return any(value.dtype == ir.DataType.FLOAT8E4M3FN for value in model.graph.initializers.values())


def _timed(run: Run, inputs: Arrays) -> tuple[dict[str, NDArray[Any]], float]:
    start = time.perf_counter()
    outputs = run(inputs)
    return outputs, time.perf_counter() - start
