"""What a profile measures: each network of several sides in turns, and each stage of the pipeline on a video."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GmosError
from ..runtime.backend import Array, Backend, Runner
from ..runtime.bundle import BundleNetwork, open_bundle
from ..runtime.console_progress import LineProgress
from ..runtime.contract import NetworkName, network_specs
from ..runtime.pipeline import RunOptions, SequenceRun
from ..runtime.results import ResultSet
from ..runtime.seeded_inputs import upload_as
from ..runtime.sequence import SequenceInput
from .latency import Latency, measure
from .network_parity import Dtypes
from .parity_networks import input_dtypes
from .parity_sides import Side
from .recording import Call, record

LoadSide = Callable[[Side], Backend]

RECORD_FRAMES = 16
PRODUCT_SIDE = 1536
"""Side of the float32 matrices that the processor's rate is measured with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """How much to measure. `batches` are lengths of axis B, `objects` of axis O."""

    warm_up: int = 3
    iterations: int = 20
    batches: tuple[int, ...] = (1,)
    objects: tuple[int, ...] = (1, 4)
    networks: tuple[NetworkName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLatency:
    """One network at some lengths on one side; `flops` where the side's bundle knows them."""

    network: str
    lengths: Mapping[str, int]
    side: str
    latency: Latency
    flops: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkShare:
    """The calls of a network within a run, each waited for."""

    network: str
    calls: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRun:
    """The pipeline on a video by one side.

    `stage_s` is wall time by stage of the undisturbed run, `networks` what the networks took in a second
    one in which each call is waited for. `peak_mib` is the process's greatest memory so far,
    `device_mib` what loading and running took of the device's.
    """

    side: str
    description: str
    frames: int
    load_s: float
    stage_s: Mapping[str, float]
    networks: tuple[NetworkShare, ...]
    spans: tuple[tuple[str, float, float], ...]
    peak_mib: float
    device_mib: float

    @property
    def total_s(self) -> float:
        """Seconds of all stages."""
        return sum(self.stage_s.values())

    @property
    def frames_per_second(self) -> float:
        """End to end, decoding and writing included, loading not."""
        return self.frames / self.total_s if self.total_s else 0.0


@dataclass(slots=True)
class TimedBackend:
    """A backend whose calls are timed, each to its end; everything else is the backend's own."""

    backend: Backend
    clock: Callable[[], float] = time.perf_counter
    spans: list[tuple[str, float, float]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - of the backend
        return getattr(self.backend, name)

    def runner(self, network: NetworkName) -> Runner:
        """See `runtime.backend.Backend`."""
        run = self.backend.runner(network)

        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            self.backend.synchronize()
            start = self.clock()
            outputs = run(inputs)
            self.backend.synchronize()
            self.spans.append((network, start, self.clock()))
            return outputs

        return call

    def shares(self) -> tuple[NetworkShare, ...]:
        """Calls and seconds by network, the longest first."""
        found: dict[str, list[float]] = {}
        for name, start, end in self.spans:
            found.setdefault(name, []).append(end - start)
        shares = [
            NetworkShare(network=name, calls=len(taken), seconds=sum(taken)) for name, taken in found.items()
        ]
        return tuple(sorted(shares, key=lambda share: -share.seconds))


def profile_video(side: Side, sequence: SequenceInput, load: LoadSide) -> VideoRun:
    """Load a side and run a video twice: undisturbed, then with every network call waited for."""
    start = time.perf_counter()
    backend = load(side)
    load_s = time.perf_counter() - start
    with closing(backend):
        free_before = backend.free_device_bytes()
        summary = _run(sequence, backend)
        device_mib = max(0, free_before - backend.free_device_bytes()) / 2**20
        timed = TimedBackend(backend)
        _run(sequence, timed)
        origin = timed.spans[0][1] if timed.spans else 0.0
        return VideoRun(
            side=side.text,
            description=backend.description,
            frames=summary.frames,
            load_s=load_s,
            stage_s=dict(summary.stage_s),
            networks=timed.shares(),
            spans=tuple((name, begin - origin, end - origin) for name, begin, end in timed.spans),
            peak_mib=peak_mib(),
            device_mib=device_mib,
        )


def _run(sequence: SequenceInput, backend: Backend) -> Any:  # noqa: ANN401 - a SequenceSummary
    with tempfile.TemporaryDirectory() as folder:
        results = ResultSet(
            save_dir=Path(folder),
            sequence=sequence.name,
            variant=backend.model.variant,
            modes=frozenset({"mask"}),
        )
        with LineProgress() as progress:
            return SequenceRun(sequence, backend, RunOptions(), progress).run(results, "error")


def peak_mib() -> float:
    """The greatest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def profile_networks(
    sides: Sequence[Side], sequence: SequenceInput, load: LoadSide, options: ProfileOptions
) -> list[NetworkLatency]:
    """Time every network of several sides in turns, on what the first side's networks see in a video.

    Raises:
        GmosError: the sides have different networks, or one that was named does not exist.
    """
    backends: list[Backend] = []
    try:
        backends += [load(side) for side in sides]
        model = backends[0].model
        known = tuple(network_specs(model))
        for name in options.networks:
            if name not in known:
                raise GmosError(f"--networks {name}: expected some of {', '.join(known)}")
        for side, backend in zip(sides, backends, strict=True):
            if backend.model != model:
                raise GmosError(
                    f"{side.text} is {backend.model.preset} {backend.model.variant}, and {sides[0].text} "
                    f"{model.preset} {model.variant}; expected the same networks"
                )
        recorded = record(backends[0], sequence, frames=RECORD_FRAMES, limit=1, batch_size=1)
        found: list[NetworkLatency] = []
        for name in options.networks or known:
            for call in recorded.calls(name):
                for lengths, inputs in _cases(name, call, model, options):
                    found += _time(name, lengths, inputs, list(zip(sides, backends, strict=True)), options)
        return found
    finally:
        for backend in backends:
            backend.close()


def _cases(
    name: NetworkName,
    call: Call,
    model: Any,  # noqa: ANN401 - ModelSpec
    options: ProfileOptions,
) -> list[tuple[dict[str, int], dict[str, NDArray[Any]]]]:
    """The recorded inputs repeated to each batch size, or number of objects, that the network has."""
    axes = {tensor.name: tensor.axes for tensor in network_specs(model)[name].inputs}
    letter = "O" if any(axis and axis[0] == "O" for axis in axes.values()) else "B"
    cases = []
    for length in options.objects if letter == "O" else options.batches:
        inputs = {
            key: np.concatenate([values[:1]] * length) if axes[key] and axes[key][0] == letter else values
            for key, values in call.inputs.items()
        }
        known = {
            axis: size
            for key, values in inputs.items()
            for axis, size in zip(axes[key], values.shape, strict=True)
            if isinstance(axis, str)
        }
        cases.append((known, inputs))
    return cases


def _time(
    name: NetworkName,
    lengths: Mapping[str, int],
    inputs: Mapping[str, NDArray[Any]],
    sides: Sequence[tuple[Side, Backend]],
    options: ProfileOptions,
) -> list[NetworkLatency]:
    calls = {side.text: _caller(name, inputs, side, backend) for side, backend in sides}
    taken = measure(calls, warm_up=options.warm_up, iterations=options.iterations)
    return [
        NetworkLatency(
            network=name,
            lengths=dict(lengths),
            side=side.text,
            latency=taken[side.text],
            flops=_flops(side, name, lengths),
        )
        for side, _ in sides
    ]


def _caller(
    name: NetworkName, inputs: Mapping[str, NDArray[Any]], side: Side, backend: Backend
) -> Callable[[], None]:
    """One call with its inputs on the device already, waited for."""
    dtypes: Dtypes = input_dtypes(side, backend.model)[name]
    given = {
        key: values if dtypes[key] == "host" else upload_as(backend, values, dtypes[key])
        for key, values in inputs.items()
    }
    run = backend.runner(name)

    def call() -> None:
        run(given)
        backend.synchronize()

    return call


def _flops(side: Side, name: NetworkName, lengths: Mapping[str, int]) -> float | None:
    """As the bundle counts them, where all lengths but the batch's are those of its record."""
    if side.bundle is None:
        return None
    return scaled_flops(open_bundle(side.bundle).networks[name], lengths)


def scaled_flops(network: BundleNetwork, lengths: Mapping[str, int]) -> float | None:
    """Operations at these lengths: proportional to the batch or the objects, unknown where others differ."""
    scale = 1.0
    for axis, counted in network.flops_at.items():
        length = lengths.get(axis, counted)
        if length == counted:
            continue
        if axis not in ("B", "O"):
            return None
        scale = length / counted
    # Work that all objects of a call share is counted once: proportion would be wrong.
    shared = any(tensor.axes[:1] == (1,) for tensor in network.inputs)
    return None if (shared and scale != 1.0) or not network.flops else network.flops * scale


def matrix_rate(rounds: int = 5) -> float:
    """Operations per second of this process's float32 matrix product, the best of a few."""
    a = np.random.default_rng(0).standard_normal((PRODUCT_SIDE, PRODUCT_SIDE), dtype=np.float32)
    best = 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * PRODUCT_SIDE**3 / (time.perf_counter() - start))
    return best
