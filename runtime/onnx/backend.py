"""The runtime's backend on ONNX Runtime: a bundle's networks on the CPU or a CUDA device."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError, LostDeviceError
from ..arrays import Array, by_frame
from ..backend import Runner
from ..bundle.manifest import Bundle, BundleNetwork, open_bundle
from ..bundle.tables import DeviceTables, TableMaker
from ..contract import FRAME_BY_FRAME, NetworkName
from ..cuda.driver import Cuda
from ..layer_times import LayerTimes
from ..precision import PRECISIONS
from ..shapes import call_lengths, with_pi3
from .cuda_arrays import OrtCudaArrays
from .host_labels import HOST_LABELS
from .sessions import (
    REASON_LENGTH,
    LoadedGraph,
    OnnxDevice,
    OrtHostArrays,
    SessionArrays,
    SessionOptions,
    check_signature,
    choose_device,
    load_onnxruntime,
    open_session,
)
from .trace import read_onnx_trace

LOST_DEVICE = ("cuda failure", "cuda error")
"""In ONNX Runtime's words: no later call will do better."""

OUT_OF_MEMORY = ("failed to allocate memory", "out of memory", "alloc_failed")
"""What ONNX Runtime says, or CUDA, cuBLAS and cuDNN through it; it has no exception for it."""


def open_bundle_backend(
    bundle: Path | Bundle, *, device: str = "auto", options: SessionOptions | None = None
) -> OnnxBackend:
    """A backend on a bundle. Networks are loaded when they are first asked for.

    Args:
        bundle: its directory, or the bundle as it was opened, with whom the user trusts.
        device: cpu, cuda, cuda:N or auto.
        options: of the sessions.

    Raises:
        GmosError: the bundle cannot be used, ONNX Runtime is missing, or the device is not there.
    """
    opened = open_bundle(bundle) if isinstance(bundle, Path) else bundle
    onnxruntime = load_onnxruntime()
    return OnnxBackend(opened, choose_device(device, onnxruntime), options or SessionOptions(), onnxruntime)


class OnnxBackend:
    """Runs a bundle. Arrays are NumPy's on the CPU and `DeviceArray`s on CUDA."""

    def __init__(
        self,
        bundle: Bundle,
        device: OnnxDevice,
        options: SessionOptions,
        onnxruntime: Any,  # noqa: ANN401
    ) -> None:
        refused = [net for net in bundle.networks.values() if not PRECISIONS[net.precision].onnxruntime]
        if refused:
            raise GmosError(
                f"bundle {bundle.root} is {refused[0].precision} ({refused[0].name}), which ONNX Runtime runs on no "
                "device; use its engines (--backend tensorrt or tensorrt-rtx), or a bundle in fp32 or fp16"
            )
        self._bundle = bundle
        self._device = device
        self._options = options
        self._ort = onnxruntime
        self.model = bundle.model
        runs = f"ONNX Runtime {onnxruntime.__version__} on {device}"
        self.description = f"{runs}, {bundle.precision}{bundle.model.approximations}"
        self.arrays: SessionArrays = (
            OrtHostArrays() if device.kind == "cpu" else OrtCudaArrays(Cuda(device.index))
        )
        self._tables = DeviceTables(TableMaker(bundle.table_source(), bundle.model), self.arrays)
        self._graphs: dict[NetworkName, LoadedGraph] = {}

    def runner(self, network: NetworkName) -> Runner:
        """The network's session, opened when it is first asked for.

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
            self.arrays.synchronize()
            return read_onnx_trace(
                Path(graph.session.end_profiling()), warm_up=warm_up, iterations=iterations
            )

    def close(self) -> None:
        """Drop the sessions and the tables. Arrays on a GPU are void afterwards."""
        # First: a copy may still read what a session gave.
        self.arrays.close()
        self._graphs.clear()
        self._tables.clear()

    def _graph(self, network: NetworkName) -> LoadedGraph:
        if network not in self._graphs:
            self._graphs[network] = self._open(network, self._options)
        return self._graphs[network]

    def _open(self, network: NetworkName, options: SessionOptions) -> LoadedGraph:
        content = self._bundle.graph_content(network, "onnxruntime")
        entry = self._bundle.networks[network]
        graph = open_session(
            content, self._device, options, self._ort, flops=entry.flops, precision=entry.precision
        )
        tables = entry.graphs["onnxruntime"].tables
        check_signature(graph, (*entry.inputs, *tables), entry.outputs, content.path)
        return graph

    def _runner_of(self, entry: BundleNetwork, graph: LoadedGraph) -> Runner:
        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            return self._run(entry, graph, inputs)

        return self._by_frame(entry, call) if entry.name in FRAME_BY_FRAME else call

    def _run(self, entry: BundleNetwork, graph: LoadedGraph, inputs: Mapping[str, Array]) -> dict[str, Array]:
        feeds = {tensor.name: inputs[tensor.name] for tensor in entry.inputs}
        if entry.graphs["onnxruntime"].tables:
            feeds |= self._tables.of_call(entry.name, feeds)
        try:
            found = self.arrays.run(graph, feeds)
        except GmosError:
            raise
        # The extension module's exceptions have no common base but this.
        except Exception as error:
            said = str(error).lower()
            if not any(words in said for words in OUT_OF_MEMORY):
                kind = LostDeviceError if any(words in said for words in LOST_DEVICE) else GmosError
                raise kind(
                    f"ONNX Runtime {self._ort.__version__} cannot run {entry.name} of {self._bundle.root} "
                    f"({' '.join(str(error).split()):.{REASON_LENGTH}}); export the bundle again"
                ) from error
            raise GmosError(
                f"{self._device} is out of memory in {entry.name} ({self.arrays.free_bytes() >> 20} MiB free): "
                "lower --batch_size, or keep features in host memory with --offload_cpu"
            ) from error
        lengths = with_pi3(call_lengths(entry.inputs, feeds), self._bundle.model.patch_px)
        for tensor in entry.outputs:
            shape = tuple(found[tensor.name].shape)
            wanted = [
                axis if isinstance(axis, int) else lengths.setdefault(axis, length)
                for axis, length in zip(tensor.axes, shape, strict=False)
            ]
            if len(shape) != len(tensor.axes) or list(shape) != wanted:
                expected = [
                    axis if isinstance(axis, int) else lengths.get(axis, axis) for axis in tensor.axes
                ]
                raise GmosError(
                    f"{entry.name} of {self._bundle.root} gave {tensor.name} as {list(shape)}, expected "
                    f"{expected}; do not trust it, export the bundle again"
                )
        return found

    def _by_frame(self, entry: BundleNetwork, call: Runner) -> Runner:
        """Cut the batch, run each frame on its own, and put the answers together again."""
        arrays = self.arrays
        batched = {tensor.name for tensor in entry.inputs if tensor.axes[0] == "B"}

        def each(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            answers = [
                call({**inputs, **{name: arrays.stack([part]) for name, part in frame.items()}})
                for frame in by_frame(arrays, inputs, batched)
            ]
            return {
                name: arrays.stack([arrays.unstack(answer[name])[0] for answer in answers])
                for name in answers[0]
            }

        return each
