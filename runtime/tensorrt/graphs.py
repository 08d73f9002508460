"""CUDA graphs of calls that come again at the same shapes: one launch instead of hundreds.

A graph has its addresses and its context's state built in. So each has a context and buffers of its own,
and a call copies its inputs there and its outputs from there. Only calls with little data are captured:
those with much spend their time in few large kernels, where launching costs nothing.

TensorRT-RTX captures the calls of a context by itself, and anew whenever an address differs from the call before.
The tracker's arrays are at other addresses nearly every time. So its graphs too get contexts and buffers of their
own, in which no address ever changes, and all other calls run without.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import GmosError
from ..contract import NetworkName
from ..cuda.device_array import DeviceArray
from ..cuda.driver import Handle, OutOfDeviceMemoryError, ignoring_lost_device
from .call_plans import Sizes, size_key
from .context import ShapedContext
from .device import EngineDevice
from .record import EngineTensor

logger = logging.getLogger(__name__)

CAPTURE_AT_CALL = 3
"""The call at the same shapes that is captured; the first ones warm up, and many shapes come only twice."""

GRAPHS_PER_NETWORK = 4

IDLE_CALLS = 64
"""Calls of its network without a use after which a graph makes room for another."""

GRAPH_BYTES = 64 << 20
"""Inputs and outputs of a captured call together: copying them takes well under a millisecond."""

SIZES_COUNTED = 256
"""Shapes whose calls are counted; when there are more, counting starts anew."""

Arrays = Mapping[str, DeviceArray]
GraphKey = tuple[int, tuple[tuple[str, tuple[int, ...]], ...]]


@dataclass(slots=True, kw_only=True)
class _Graph:
    """A captured call; void when the activation memory has moved since (`version`).

    `handle` is None where the library has the graph in its context.
    """

    context: ShapedContext
    buffers: Arrays
    version: int
    handle: Handle | None = None
    used_at: int = 0

    @property
    def addresses(self) -> dict[str, int]:
        """Of its inputs and outputs."""
        return {name: buffer.pointer for name, buffer in self.buffers.items()}


class CallGraphs:
    """The captured calls of one network; `own`: the library captures what its contexts run."""

    def __init__(
        self,
        network: NetworkName,
        tensors: Sequence[EngineTensor],
        device: EngineDevice,
        make_context: Callable[[], ShapedContext],
        *,
        own: bool = False,
    ) -> None:
        self._network = network
        self._inputs = [t.name for t in tensors if t.mode == "input" and not t.host]
        self._outputs = [t.name for t in tensors if t.mode == "output"]
        self._device = device
        self._make_context = make_context
        self._own = own
        self._graphs: OrderedDict[GraphKey, _Graph] = OrderedDict()
        self._seen: Counter[GraphKey] = Counter()
        self._calls = 0
        self._refused = False

    def run(self, profile: int, sizes: Sizes, arrays: Arrays) -> bool:
        """Run a call through its graph, capturing it if it is time; whether that was done.

        Args:
            profile: of the call.
            sizes: of all its inputs, values of host inputs too: they are built into a graph.
            arrays: its device inputs and outputs.
        """
        if self._refused or sum(array.nbytes for array in arrays.values()) > GRAPH_BYTES:
            return False
        self._calls += 1
        key = (profile, size_key(sizes))
        self._drop_void()
        graph = self._graphs.get(key)
        if graph is None:
            if len(self._seen) > SIZES_COUNTED:
                self._seen.clear()
            self._seen[key] += 1
            if self._seen[key] < CAPTURE_AT_CALL or not self._has_room():
                return False
            graph = self._capture(profile, sizes, arrays)
            if graph is None:
                return False
            self._graphs[key] = graph
        self._graphs.move_to_end(key)
        graph.used_at = self._calls
        try:
            self._launch(graph, arrays)
        except OutOfDeviceMemoryError as error:
            # The first launch takes memory for the graph on the device.
            self._refuse(str(error))
            return False
        return True

    def close(self) -> None:
        """Destroy all graphs."""
        while self._graphs:
            self._end(self._graphs.popitem()[1])

    def _launch(self, graph: _Graph, arrays: Arrays) -> None:
        device = self._device
        for name in self._inputs:
            device.copy(graph.buffers[name], arrays[name])
        if graph.handle is None:
            graph.context.run(graph.addresses, device.activations.require(0), device.stream)
        else:
            device.cuda.launch(graph.handle, device.stream)
        for name in self._outputs:
            device.copy(arrays[name], graph.buffers[name])

    def _capture(self, profile: int, sizes: Sizes, arrays: Arrays) -> _Graph | None:
        """Warm a new context up and record it; None, and a line that says why, where that cannot be."""
        device = self._device
        try:
            graph = self._prepare(profile, sizes, arrays)
            if not self._own:
                graph.handle = self._record(graph)
        except (GmosError, RuntimeError) as error:
            if device.cuda.is_lost:
                raise
            # What was started in the context goes on until then.
            device.cuda.synchronize(device.stream)
            # Such as no memory for it: the call itself needs none of that.
            self._refuse(str(error))
            return None
        return graph

    def _record(self, graph: _Graph) -> Handle:
        """The graph of a context's call.

        Raises:
            GmosError: there is no memory for it, or the library could not run.
            RuntimeError: it does something that cannot be recorded.
        """
        device, run = self._device, graph.context.run
        activation = device.activations.require(0)
        # Once outside of the graph: the library allocates and loads kernels at the first run.
        run(graph.addresses, activation, device.stream)
        device.cuda.begin_capture(device.stream)
        try:
            run(graph.addresses, activation, device.stream)
        except (GmosError, RuntimeError):
            # The stream has to leave its capture; that it was spoilt is known.
            with contextlib.suppress(GmosError, RuntimeError):
                device.cuda.end_graph(device.cuda.end_capture(device.stream))
            raise
        return device.cuda.end_capture(device.stream)

    def _prepare(self, profile: int, sizes: Sizes, arrays: Arrays) -> _Graph:
        """A context at its shapes with buffers that hold the call's inputs."""
        device = self._device
        context = self._make_context()
        shaped = context.shape(profile, sizes, device.stream)
        buffers = {name: device.empty(array.shape, array.dtype) for name, array in arrays.items()}
        device.activations.require(shaped.activation_bytes)
        for name in self._inputs:
            device.copy(buffers[name], arrays[name])
        return _Graph(context=context, buffers=buffers, version=device.activations.version)

    def _has_room(self) -> bool:
        """Whether a graph may be added, after giving up one that has not been used for long."""
        if len(self._graphs) < GRAPHS_PER_NETWORK:
            return True
        key, oldest = next(iter(self._graphs.items()))
        if self._calls - oldest.used_at <= IDLE_CALLS:
            return False
        self._end(self._graphs.pop(key))
        return True

    def _drop_void(self) -> None:
        version = self._device.activations.version
        for key in [key for key, graph in self._graphs.items() if graph.version != version]:
            self._end(self._graphs.pop(key))

    def _refuse(self, reason: str) -> None:
        """From now on do without, and give back what graphs have taken."""
        self._refused = True
        self.close()
        logger.info("%s runs without CUDA graphs: %s", self._network, " ".join(reason.split()))

    def _end(self, graph: _Graph) -> None:
        with ignoring_lost_device(self._device.cuda):
            # The device may still be running it.
            self._device.cuda.synchronize(self._device.stream)
            if graph.handle is not None:
                self._device.cuda.end_graph(graph.handle)
        graph.context.close()
