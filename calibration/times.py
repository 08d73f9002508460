"""How long a network takes on ONNX Runtime before and after, on one recorded call."""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from dataclasses import dataclass

from ..runtime.bundle import Bundle
from ..runtime.contract import NetworkName
from ..runtime.onnx_backend import open_bundle_backend
from ..runtime.seeded_inputs import upload_as
from .sample_store import Sample

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
        GmosError: as `runtime.onnx_backend.open_bundle_backend`.
    """
    inputs = sample.load()
    entry = before.networks[network]
    with (
        closing(open_bundle_backend(before.root, device=device)) as old,
        closing(open_bundle_backend(after.root, device=device)) as new,
    ):
        calls = []
        for backend in (old, new):
            given = {
                tensor.name: inputs[tensor.name]
                if tensor.host
                else upload_as(backend, inputs[tensor.name], tensor.dtype)
                for tensor in entry.inputs
            }
            calls.append((backend, backend.runner(network), given))
        seconds: tuple[list[float], list[float]] = ([], [])
        for number in range(REPETITIONS + 1):
            for kept, (backend, run, given) in zip(seconds, calls, strict=True):
                backend.synchronize()
                start = time.perf_counter()
                run(given)
                backend.synchronize()
                # The first call allocates.
                if number:
                    kept.append(time.perf_counter() - start)
        description = new.description
    before_ms, after_ms = (1000 * statistics.median(part) for part in seconds)
    return Times(before_ms=before_ms, after_ms=after_ms, device=description)
