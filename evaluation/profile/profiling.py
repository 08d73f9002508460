"""The latency of every network of several sides, in turns, with its layers and the work that it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...runtime.backend import Backend
from ...runtime.bundle.manifest import Bundle
from ...runtime.bundle.uploading import Dtypes, upload_inputs
from ...runtime.contract import ModelSpec, NetworkName, network_specs
from ...runtime.layer_times import TimesLayers
from ...runtime.precision import PRECISIONS, QUANTISED
from ...runtime.shapes import call_lengths, letters_of
from ...runtime.video.sequence import SequenceInput
from ...sides import Side
from ..compare.recording import Call, record
from ..compare.sides import chosen_networks, input_dtypes
from .latency import DeviceTimer, Latency, Ratio, device_timer, measure, ratio
from .layer_kinds import NetworkLayers, lengths_text, network_layers
from .roofline import Limit, Rates, Work, gpu_rates, limit, network_work, on_gpu

RECORD_FRAMES = 16

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """How much to measure. `batches` are lengths of axis B, `objects` of axis O; `networks` as in --networks."""

    warm_up: int = 3
    iterations: int = 20
    batches: tuple[int, ...] = (1,)
    objects: tuple[int, ...] = (1, 4)
    networks: str | None = None
    layers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLatency:
    """One network at some lengths on one side.

    `latency` by the host's clock until the device is done, `device_latency` between two events on the
    device, where the backend has them. `first` is the side that it is compared with: the first one of its
    model, which may be this one. `ratio` is the first side's time over this one's, round by round; None for the
    first side itself. `limit` is the least time of a call on its device; None where its work or the rates are not
    known.
    """

    network: str
    lengths: Mapping[str, int]
    side: str
    first: str
    latency: Latency
    device_latency: Latency | None
    ratio: Ratio | None
    work: Work
    limit: Limit | None

    @property
    def title(self) -> str:
        """The network with its lengths."""
        return f"{self.network} {lengths_text(self.lengths)}"

    @property
    def roofline(self) -> float | None:
        """The least time over the median that was measured, on the device's own clock where there is one."""
        if self.limit is None:
            return None
        return self.limit.seconds / (self.device_latency or self.latency).median_s


@dataclass(slots=True)
class NetworksProfile:
    """All networks; `rates` by side, `layers` where asked for and told."""

    networks: list[NetworkLatency] = field(default_factory=list)
    layers: list[NetworkLayers] = field(default_factory=list)
    rates: dict[str, Rates] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A side that has been loaded, with what is asked of it again and again."""

    side: Side
    backend: Backend
    bundle: Bundle | None
    dtypes: Mapping[NetworkName, Dtypes]
    timer: DeviceTimer | None
    rates: Rates

    @property
    def precision(self) -> str:
        """As its description ends."""
        return self.backend.description.rpartition(", ")[2]


def profile_networks(
    sides: Sequence[Side], sequence: SequenceInput, options: ProfileOptions, host: Rates
) -> NetworksProfile:
    """Time every network of several sides in turns, on what the networks see in a video.

    Sides of the same model take turns and are compared; those of another variant or preset come after.

    Args:
        sides: each with networks.
        sequence: the checked video.
        options: how much to measure.
        host: the processor's rates.

    Raises:
        GmosError: a side cannot be loaded, or a network that was named does not exist.
    """
    with ExitStack() as stack:
        loaded = [_loaded(side, stack.enter_context(closing(side.load())), host) for side in sides]
        models = list(dict.fromkeys(entry.backend.model for entry in loaded))
        names = _chosen(options.networks, models)
        found = NetworksProfile(rates={entry.side.text: entry.rates for entry in loaded})
        for model in models:
            group = [entry for entry in loaded if entry.backend.model == model]
            recorded = record(group[0].backend, sequence, frames=RECORD_FRAMES, limit=1, batch_size=1)
            for name in names[model]:
                for call in recorded.calls(name):
                    cases = _cases(name, call, model, options)
                    for lengths, inputs in cases:
                        found.networks += _time(name, lengths, inputs, group, options)
                    if options.layers:
                        found.layers += _layers(name, *cases[0], group, options)
        return found


def _loaded(side: Side, backend: Backend, host: Rates) -> _Loaded:
    entry = _Loaded(
        side=side,
        backend=backend,
        bundle=side.open_bundle(),
        dtypes=input_dtypes(side, backend.model),
        timer=device_timer(backend),
        rates=host,
    )
    if not on_gpu(backend):
        return entry
    precision = PRECISIONS.get(entry.precision, PRECISIONS["fp32"])
    # Of a quantised bundle: what is not quantised is in its base, and nothing else is held against these rates.
    return replace(entry, rates=gpu_rates(backend, precision.base or precision.name))


def _chosen(text: str | None, models: Sequence[ModelSpec]) -> dict[ModelSpec, tuple[NetworkName, ...]]:
    """The networks of --networks by model; each must be one of some model."""
    words = None if text is None else text.split(",")
    for word in words or ():
        if not any(word in network_specs(model) for model in models):
            # Says what there is.
            chosen_networks(word, models[0])
    return {
        model: tuple(name for name in chosen_networks(None, model) if words is None or name in words)
        for model in models
    }


def _cases(
    name: NetworkName, call: Call, model: ModelSpec, options: ProfileOptions
) -> list[tuple[dict[str, int], dict[str, NDArray[Any]]]]:
    """The recorded inputs repeated to each batch size, or number of objects, that the network has.

    Memories and pointers are repeated to as many as a long video has.
    """
    tensors = network_specs(model)[name].inputs
    axes = {tensor.name: tensor.axes for tensor in tensors}
    letter = "O" if "O" in letters_of(tensors) else "B"
    cases = []
    for length in options.objects if letter == "O" else options.batches:
        wanted = {letter: length, "R": model.memory_frames, "P": model.object_pointers}
        inputs = {key: _repeated(values, axes[key], wanted) for key, values in call.inputs.items()}
        cases.append((call_lengths(tensors, inputs), inputs))
    return cases


def _repeated(values: NDArray[Any], axes: tuple[str | int, ...], wanted: Mapping[str, int]) -> NDArray[Any]:
    """The first entries along each axis that has a wanted length, over and over; an empty axis stays."""
    for place, axis in enumerate(axes):
        if isinstance(axis, str) and axis in wanted and values.shape[place]:
            # Of a batch the first one only: the others may be of another kind.
            given = 1 if place == 0 else values.shape[place]
            values = np.take(values, np.arange(wanted[axis]) % given, axis=place)
    return values


def _time(
    name: NetworkName,
    lengths: Mapping[str, int],
    inputs: Arrays,
    group: Sequence[_Loaded],
    options: ProfileOptions,
) -> list[NetworkLatency]:
    calls = {entry.side.text: _TimedCall(entry, name, inputs) for entry in group}
    taken = measure(calls, warm_up=options.warm_up, iterations=options.iterations)
    first, timed = group[0].side.text, []
    for entry in group:
        side, work = entry.side.text, _work(entry, group, name, lengths)
        timed.append(
            NetworkLatency(
                network=name,
                lengths=dict(lengths),
                side=side,
                first=first,
                latency=taken[side],
                device_latency=calls[side].device_latency(options.warm_up),
                ratio=None if side == first else ratio(taken[first].samples_s, taken[side].samples_s),
                work=work,
                limit=limit(work, entry.rates),
            )
        )
    return timed


class _TimedCall:
    """One call of a network with its inputs on the device already, waited for."""

    def __init__(self, entry: _Loaded, name: NetworkName, inputs: Arrays) -> None:
        given = upload_inputs(entry.backend.arrays, inputs, entry.dtypes[name])
        self._start: Callable[[], object] = partial(entry.backend.runner(name), given)
        self._backend, self._timer = entry.backend, entry.timer
        self._device_ms: list[float] = []

    def __call__(self) -> None:
        if self._timer is None:
            self._start()
        else:
            self._device_ms.append(self._timer(self._start))
        self._backend.arrays.synchronize()

    def device_latency(self, warm_up: int) -> Latency | None:
        """Of the calls after the warm-up, where the device told its times."""
        return Latency(tuple(ms / 1e3 for ms in self._device_ms[warm_up:])) if self._device_ms else None


def _work(entry: _Loaded, group: Sequence[_Loaded], name: NetworkName, lengths: Mapping[str, int]) -> Work:
    """As a bundle counts it: the side's own, or another side's of the same model.

    Bytes follow the precision: another one's are not this one's.
    """
    own = entry if entry.bundle is not None else next((e for e in group if e.bundle is not None), None)
    if own is None or own.bundle is None:
        return Work(flops=None, moved_bytes=None)
    found = network_work(own.bundle.networks[name], lengths)
    if own is entry or own.bundle.precision == entry.precision:
        return found
    return Work(flops=found.flops, moved_bytes=None, quantised=entry.precision in QUANTISED)


def _layers(
    name: NetworkName,
    lengths: Mapping[str, int],
    inputs: Arrays,
    group: Sequence[_Loaded],
    options: ProfileOptions,
) -> list[NetworkLayers]:
    """Of the sides whose backend tells them."""
    found = []
    for entry in group:
        if not hasattr(entry.backend, "layer_times"):
            continue
        times = cast(TimesLayers, entry.backend).layer_times(
            name,
            upload_inputs(entry.backend.arrays, inputs, entry.dtypes[name]),
            warm_up=options.warm_up,
            iterations=options.iterations,
        )
        found.append(network_layers(name, lengths, entry.side.text, times))
    return found
