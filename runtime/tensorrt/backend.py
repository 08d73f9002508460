"""The runtime's backend on TensorRT and TensorRT-RTX engines of a bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..arrays import Array
from ..backend import Runner
from ..bundle.manifest import Bundle, open_bundle
from ..bundle.tables import DeviceTables, TableMaker
from ..contract import NetworkName
from ..cuda.driver import Cuda, ignoring_lost_device
from ..device_name import parse_device
from ..layer_times import LayerTimes
from .choice import check_command, unchecked
from .device import EngineDevice, budget_of_share
from .library import Flavour, TensorRT, load_tensorrt
from .memory import MemoryPlan, RunSize, build_for_conditioning, most_conditioning, plan_memory
from .record import DeviceIdentity, EngineRecord
from .runner import EngineOptions, EngineRunner


def open_engine_backend(
    bundle: Path | Bundle,
    flavour: Flavour,
    *,
    device: str = "auto",
    options: EngineOptions | None = None,
) -> EngineBackend:
    """A backend on the engines of a bundle, all of them loaded.

    Args:
        bundle: its directory, or the bundle as it was opened, with whom the user trusts.
        flavour: tensorrt or tensorrt-rtx.
        device: cuda, cuda:N or auto, which is cuda:0.
        options: of the engines.

    Raises:
        GmosError: the library or the device is missing, or an engine is missing or does not fit; the
            message has the command that builds it.
    """
    opened = open_bundle(bundle) if isinstance(bundle, Path) else bundle
    backend = open_engine(opened, flavour, device_index(device, flavour), options)
    try:
        backend.load()
    except BaseException:
        backend.close()
        raise
    return backend


def open_engine(
    bundle: Bundle, flavour: Flavour, index: int, options: EngineOptions | None = None
) -> EngineBackend:
    """A backend that loads each engine when it is first asked for.

    Raises:
        GmosError: the library or the device is missing.
    """
    library = load_tensorrt(flavour)
    return EngineBackend(bundle, library, Cuda(index), options or EngineOptions())


def device_index(name: str, flavour: Flavour) -> int:
    """The number of the CUDA device of that name.

    Raises:
        GmosError: engines do not run there.
    """
    try:
        kind, index = parse_device(name)
    except GmosError as error:
        raise GmosError(f"--device {name}: --backend {flavour} runs on cuda, cuda:N or auto") from error
    if kind == "cpu":
        raise GmosError(
            f"--device {name}: --backend {flavour} runs on cuda, cuda:N or auto; use --backend onnxruntime for cpu"
        )
    return index


class EngineBackend:
    """Runs a bundle's engines. Arrays are `DeviceArray`s and stay on the device between the networks."""

    def __init__(self, bundle: Bundle, library: TensorRT, cuda: Cuda, options: EngineOptions) -> None:
        self._bundle = bundle
        self._library = library
        budget = options.memory_budget
        if budget is None and options.memory_share < 1:
            budget = budget_of_share(cuda, options.memory_share)
        self._options = replace(options, memory_budget=budget)
        self._device = EngineDevice(cuda, budget=budget)
        self.arrays = self._device
        self.model = bundle.model
        self.description = f"{library.label} on {cuda}, {bundle.precision}{bundle.model.approximations}"
        self._tables = DeviceTables(TableMaker(bundle.table_source(), bundle.model), self.arrays)
        self._runners: dict[NetworkName, EngineRunner] = {}
        self._closed = False

    @property
    def identity(self) -> DeviceIdentity:
        """The GPU, as engine records name it."""
        return self._device.identity

    def record(self, network: NetworkName) -> EngineRecord:
        """The record of a network's engine, which is loaded if it is not yet.

        Raises:
            GmosError: it is missing or does not fit.
        """
        return self._runner(network).record

    def load(self) -> None:
        """Load every engine of the bundle.

        Raises:
            GmosError: one is missing or does not fit, or there is no memory for their weights.
        """
        for network in self._bundle.networks:
            self._runner(network)

    def warnings(self) -> list[str]:
        """What a user should know about the engines that were loaded."""
        records = {name: runner.record for name, runner in self._runners.items()}
        names = unchecked(records, self._device.identity)
        if not names:
            return []
        which = (
            "no engine was" if len(names) == len(records) else f"the engines of {', '.join(names)} were not"
        )
        command = check_command(self._bundle.root, self._library.flavour, self._device.cuda.index)
        return [f"{which} compared with ONNX Runtime on this GPU, and some have wrong results: {command}"]

    def plan(self, size: RunSize) -> MemoryPlan:
        """What a run of that size takes on the device.

        Raises:
            GmosError: an engine takes no calls of that size.
        """
        runners = {network: self._runner(network) for network in self._bundle.networks}
        free = self._device.free_bytes() + self._device.activations.nbytes
        return plan_memory(
            runners,
            self._bundle,
            size,
            free=free,
            budget=self._options.memory_budget,
            device=str(self._device.cuda),
        )

    def most_conditioning(self) -> int:
        """See `memory.PlansMemory`."""
        return most_conditioning(self._runner("memory_attention").record, self.model)

    def build_for(self, conditioning: int) -> str:
        """See `memory.PlansMemory`."""
        return build_for_conditioning(self._bundle, self._runner("memory_attention").record, conditioning)

    def runner(self, network: NetworkName) -> Runner:
        """The network's engine, loaded when it is first asked for.

        Raises:
            GmosError: its engine is missing or does not fit.
            KeyError: this variant has no such network.
        """
        runner = self._runner(network)
        if not runner.entry.graphs["standard"].tables:
            return runner

        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            return runner({**inputs, **self._tables.of_call(network, inputs)})

        return call

    def layer_times(
        self,
        network: NetworkName,
        inputs: Mapping[str, Array | NDArray[np.generic]],
        *,
        warm_up: int,
        iterations: int,
    ) -> LayerTimes:
        """See `layer_times.TimesLayers`; in a context of its own, without CUDA graphs."""
        run = self.runner(network)
        with self._runner(network).profiled() as sums:
            for _ in range(warm_up):
                run(inputs)
            sums.clear()
            for _ in range(iterations):
                run(inputs)
            return sums.times(iterations)

    def measure_ms(self, work: Callable[[], None]) -> float:
        """Milliseconds of the device for what `work` starts, between two events in the stream."""
        cuda, stream = self._device.cuda, self._device.stream
        start = cuda.mark(stream, timed=True)
        work()
        end = cuda.mark(stream, timed=True)
        cuda.wait(end)
        return cuda.elapsed_ms(start, end)

    def close(self) -> None:
        """Release engines and memory. Arrays of this backend are void afterwards."""
        if self._closed:
            return
        self._closed = True
        with ignoring_lost_device(self._device.cuda):
            # What runs still reads the weights.
            self._device.synchronize()
        with contextlib.ExitStack() as stack:
            stack.callback(self._device.close)
            for runner in self._runners.values():
                stack.callback(runner.close)
        self._runners.clear()
        self._tables.clear()

    def _runner(self, network: NetworkName) -> EngineRunner:
        if network not in self._runners:
            self._runners[network] = EngineRunner(
                network,
                bundle=self._bundle,
                library=self._library,
                device=self._device,
                options=self._options,
            )
        return self._runners[network]
