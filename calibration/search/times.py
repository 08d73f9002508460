"""How long a network takes on ONNX Runtime before and after, on one recorded call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ...evaluation.profile.latency import measure
from ...runtime.backend import Backend
from ...runtime.bundle.manifest import Bundle, BundleNetwork
from ...runtime.bundle.uploading import dtypes_of, upload_inputs
from ...runtime.contract import NetworkName
from ...runtime.onnx.backend import open_bundle_backend
from ..sampling.sample_store import Sample

REPETITIONS = 5


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
    """Run a recorded call on both bundles in turns.

    Raises:
        GmosError: as `runtime.onnx.backend.open_bundle_backend`.
    """
    inputs = sample.load()
    entry = before.networks[network]
    with (
        closing(open_bundle_backend(before.root, device=device)) as old,
        closing(open_bundle_backend(after.root, device=device)) as new,
    ):
        calls = {
            name: _caller(backend, network, entry, inputs) for name, backend in (("old", old), ("new", new))
        }
        found = measure(calls, warm_up=1, iterations=REPETITIONS)
        description = new.description
    return Times(
        before_ms=1000 * found["old"].median_s, after_ms=1000 * found["new"].median_s, device=description
    )


def _caller(
    backend: Backend, network: NetworkName, entry: BundleNetwork, inputs: Mapping[str, NDArray[Any]]
) -> Callable[[], None]:
    """One call with its inputs on the device already, waited for."""
    given = upload_inputs(backend.arrays, inputs, dtypes_of(entry.inputs))
    run = backend.runner(network)

    def call() -> None:
        run(given)
        backend.arrays.synchronize()

    return call
