"""Runs changed forms of a network's graph on recorded inputs, beside the weights of the bundle."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import GmosError
from ...evaluation.profile.latency import measure
from ...runtime.backend import Backend
from ...runtime.bundle.manifest import Bundle
from ...runtime.bundle.uploading import dtypes_of, upload_inputs
from ...runtime.comparison.parity import OutputDifference, compare_outputs, worst_of, worst_severity
from ...runtime.contract import NetworkName
from ...runtime.onnx.backend import open_bundle_backend
from ...runtime.onnx.host_graph import HostGraph, bundle_tables
from ...runtime.precision import Limits
from ...runtime.shapes import call_lengths
from ..sampling.sample_store import Sample

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], dict[str, NDArray[Any]]]

Done = Callable[[], None]
"""Called after each call of a network, for a progress bar."""

SEEN = ".seen"
"""Ending of an output that only repeats an input."""

TINY_MS = 1e-6
REPETITIONS = 5


def nothing() -> None:
    """Without a progress bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A changed graph against the bundle's own: of each output the worst sample, and the median time of a call.

    Times are of this machine's CPU, without the packed weights of a run proper: only their ratio means something.
    `excluded` groups of layers are in half precision; `weight_bytes` are those of all layers that could be quantised,
    scales not counted.
    """

    differences: tuple[OutputDifference, ...]
    own_ms: float
    call_ms: float
    excluded: int = 0
    weight_bytes: int = 0

    @property
    def error(self) -> float:
        """The greatest relative error of an output."""
        return worst_severity(self.differences)

    @property
    def speed_up(self) -> float:
        """How many times as fast as the bundle's own graph; below 1 it is slower."""
        return self.own_ms / max(self.call_ms, TINY_MS)

    def within(self, limits: Limits) -> bool:
        """Whether every output is within the limits."""
        return all(found.excess(limits) is None for found in self.differences)


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
        fp8 = any(value.dtype == ir.DataType.FLOAT8E4M3FN for value in model.graph.initializers.values())
        graph = HostGraph(
            ir.to_proto(model).SerializeToString(),
            tables=self._tables,
            folder=self._path.parent,
            precision="fp8" if fp8 else self._entry.precision,
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
                expected, lengths = self._expected[sample.path], call_lengths(self._entry.inputs, inputs)
                for one in compare_outputs(self.name, given, expected, target="onnxruntime", lengths=lengths):
                    found.setdefault(one.output, []).append(one)
                done()
        return Comparison(
            differences=tuple(worst_of(each) for each in found.values()),
            own_ms=1000 * statistics.median(self._seconds),
            call_ms=1000 * statistics.median(times),
        )


def _timed(run: Run, inputs: Arrays) -> tuple[dict[str, NDArray[Any]], float]:
    start = time.perf_counter()
    outputs = run(inputs)
    return outputs, time.perf_counter() - start


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Median milliseconds of a call of the fp16 graph and of the quantised one, on the device named."""

    before_ms: float
    after_ms: float
    device: str

    @property
    def speed_up(self) -> float:
        """How many times as fast the quantised graph is; below 1 it is slower."""
        return self.before_ms / self.after_ms


def measured(before: Bundle, after: Bundle, network: NetworkName, sample: Sample, device: str) -> Times:
    """Run a recorded call on both bundles in turns, with its inputs on the device already.

    Raises:
        GmosError: as `runtime.onnx.backend.open_bundle_backend`.
    """
    inputs, dtypes = sample.load(), dtypes_of(before.networks[network].inputs)

    def caller(backend: Backend) -> Callable[[], None]:
        given, run = upload_inputs(backend.arrays, inputs, dtypes), backend.runner(network)

        def call() -> None:
            run(given)
            backend.arrays.synchronize()

        return call

    with (
        closing(open_bundle_backend(before.root, device=device)) as old,
        closing(open_bundle_backend(after.root, device=device)) as new,
    ):
        found = measure({"old": caller(old), "new": caller(new)}, warm_up=1, iterations=REPETITIONS)
        before_ms, after_ms = (1000 * found[name].median_s for name in ("old", "new"))
        return Times(before_ms=before_ms, after_ms=after_ms, device=new.description)
