"""The runtime's backend on ONNX Runtime: a bundle's networks on the CPU or a CUDA device."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..backend import Array, HostArray, Runner
from ..bundle.manifest import Bundle, BundleNetwork, open_bundle
from ..bundle.tables import TableMaker
from ..contract import ModelSpec, NetworkName
from ..layer_times import LayerTimes
from ..pipeline.memory_tracker import MemoryTracker
from ..precision import PRECISIONS
from ..tracker import FrameFeatures, Tracker
from .cuda_arrays import CudaDriver, CudaMemory
from .host_arrays import HostMemory, LoadedGraph, Memory
from .host_labels import HOST_LABELS
from .sessions import OnnxDevice, SessionOptions, choose_device, load_onnxruntime, open_session
from .trace import read_onnx_trace

FRAME_BY_FRAME: tuple[NetworkName, ...] = ("proposal_labels",)
"""Run one frame at a time: the logits of one frame at the video's size are 160 MB at 1080p."""

OUT_OF_MEMORY = "failed to allocate memory"
"""What ONNX Runtime says on any device; it has no exception for it."""


def open_bundle_backend(
    directory: Path, *, device: str = "auto", options: SessionOptions | None = None
) -> OnnxBackend:
    """A backend on a bundle. Networks are loaded when they are first asked for.

    Args:
        directory: the bundle.
        device: cpu, cuda, cuda:N or auto.
        options: of the sessions.

    Raises:
        GmosError: the bundle cannot be used, ONNX Runtime is missing, or the device is not there.
    """
    bundle = open_bundle(directory)
    onnxruntime = load_onnxruntime()
    return OnnxBackend(bundle, choose_device(device, onnxruntime), options or SessionOptions(), onnxruntime)


class OnnxBackend:
    """Runs a bundle. Arrays are NumPy's on the CPU and `DeviceArray`s on CUDA."""

    def __init__(
        self,
        bundle: Bundle,
        device: OnnxDevice,
        options: SessionOptions,
        onnxruntime: Any,  # noqa: ANN401
    ) -> None:
        if device.kind == "cpu" and not PRECISIONS[bundle.precision].onnxruntime_on_cpu:
            raise GmosError(
                f"bundle {bundle.root} is {bundle.precision}, and ONNX Runtime has no {bundle.precision} convolution "
                "on a CPU; use a fp32 bundle, or --device cuda"
            )
        self._bundle = bundle
        self._device = device
        self._options = options
        self._ort = onnxruntime
        self._tables = TableMaker(bundle.table_source(), bundle.model)
        self._memory: Memory = (
            HostMemory()
            if device.kind == "cpu"
            else CudaMemory(device.index, onnxruntime, CudaDriver(device.index))
        )
        self._graphs: dict[NetworkName, LoadedGraph] = {}
        self._uploaded: dict[int, tuple[NDArray[np.float32], Array]] = {}

    @property
    def model(self) -> ModelSpec:
        """See `runtime.backend.Backend`."""
        return self._bundle.model

    @property
    def description(self) -> str:
        """See `runtime.backend.Backend`."""
        return f"ONNX Runtime {self._ort.__version__} on {self._device}, {self._bundle.precision}"

    def runner(self, network: NetworkName) -> Runner:
        """See `runtime.backend.Backend`.

        Raises:
            GmosError: a file of the network has changed, or cannot be loaded on the device.
            KeyError: this variant has no such network.
        """
        if self._device.kind == "cpu" and network in HOST_LABELS and network in self._bundle.networks:
            # What their graphs do, which resize every mask everywhere.
            return HOST_LABELS[network]
        return self._runner_of(self._bundle.networks[network], self._graph(network))

    def layer_times(
        self,
        network: NetworkName,
        inputs: Mapping[str, Array | NDArray[np.generic]],
        *,
        warm_up: int,
        iterations: int,
    ) -> LayerTimes:
        """See `layer_times.TimesLayers`; in a session of its own, which takes the network's memory again."""
        with tempfile.TemporaryDirectory() as folder:
            graph = self._open(network, replace(self._options, trace=Path(folder) / network))
            run = self._runner_of(self._bundle.networks[network], graph)
            for _ in range(warm_up + iterations):
                run(inputs)
            self.synchronize()
            return read_onnx_trace(
                Path(graph.session.end_profiling()), warm_up=warm_up, iterations=iterations
            )

    def upload(self, host: NDArray[np.generic]) -> Array:
        """See `runtime.backend.Backend`."""
        return self._memory.upload(host)

    def download(self, array: Array) -> NDArray[Any]:
        """See `runtime.backend.Backend`."""
        return self._memory.download(array)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """See `runtime.backend.Backend`."""
        return self._memory.stack(arrays)

    def unstack(self, array: Array) -> Sequence[Array]:
        """See `runtime.backend.Backend`."""
        return self._memory.unstack(array)

    def nbytes(self, array: Array) -> int:
        """See `runtime.backend.Backend`."""
        return self._memory.nbytes(array)

    def to_host(self, array: Array) -> HostArray:
        """See `runtime.backend.Backend`."""
        return self._memory.to_host(array)

    def from_host(self, parked: HostArray) -> Array:
        """See `runtime.backend.Backend`."""
        return self._memory.from_host(parked)

    def free_device_bytes(self) -> int:
        """See `runtime.backend.Backend`."""
        return self._memory.free_bytes()

    def tracker(self, features: FrameFeatures, *, frames: int, video_hw: tuple[int, int]) -> Tracker:
        """See `runtime.backend.Backend`."""
        return MemoryTracker(self, features, frames=frames, video_hw=video_hw)

    def synchronize(self) -> None:
        """See `runtime.backend.Backend`."""
        self._memory.synchronize()

    def close(self) -> None:
        """See `runtime.backend.Backend`."""
        self._graphs.clear()
        self._uploaded.clear()

    def _graph(self, network: NetworkName) -> LoadedGraph:
        if network not in self._graphs:
            self._graphs[network] = self._open(network, self._options)
        return self._graphs[network]

    def _open(self, network: NetworkName, options: SessionOptions) -> LoadedGraph:
        path = self._bundle.graph_file(network, "onnxruntime")
        entry = self._bundle.networks[network]
        return open_session(
            path, self._device, options, self._ort, flops=entry.flops, precision=entry.precision
        )

    def _runner_of(self, entry: BundleNetwork, graph: LoadedGraph) -> Runner:
        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            return self._run(entry, graph, inputs)

        return self._by_frame(entry, call) if entry.name in FRAME_BY_FRAME else call

    def _run(self, entry: BundleNetwork, graph: LoadedGraph, inputs: Mapping[str, Array]) -> dict[str, Array]:
        feeds = {tensor.name: inputs[tensor.name] for tensor in entry.inputs}
        if entry.graphs["onnxruntime"].tables:
            shapes = {name: tuple(array.shape) for name, array in feeds.items()}
            feeds |= self._on_device(self._tables.tables(entry.name, shapes))
        try:
            return self._memory.run(graph, feeds)
        # The extension module's exceptions have no common base but this.
        except Exception as error:
            if OUT_OF_MEMORY not in str(error).lower():
                raise
            raise GmosError(
                f"{self._device} is out of memory in {entry.name} ({self.free_device_bytes() >> 20} MiB free): "
                "lower --batch_size, or keep features in host memory with --offload_cpu"
            ) from error

    def _by_frame(self, entry: BundleNetwork, call: Runner) -> Runner:
        """Cut the batch, run each frame on its own, and put the answers together again."""
        batched = {tensor.name for tensor in entry.inputs if tensor.axes[0] == "B"}

        def each(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            frames = {name: self._memory.unstack(inputs[name]) for name in batched}
            count = len(next(iter(frames.values())))
            answers = []
            for i in range(count):
                one = {name: self._memory.batch_of_one(frames[name][i]) for name in batched}
                answers.append(call({**inputs, **one}))
            return {
                name: self._memory.stack([self._memory.unstack(answer[name])[0] for answer in answers])
                for name in answers[0]
            }

        return each

    def _on_device(self, tables: Mapping[str, NDArray[np.float32]]) -> dict[str, Array]:
        """Tables where the sessions read them; the maker keeps few, and gives the same ones again."""
        if self._device.kind == "cpu":
            return dict(tables)
        found = {}
        for name, table in tables.items():
            kept = self._uploaded.get(id(table))
            if kept is None or kept[0] is not table:
                kept = self._uploaded[id(table)] = (table, self._memory.upload(table))
            found[name] = kept[1]
        return found
