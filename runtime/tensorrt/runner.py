"""Runs one network's engine, whichever library built it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..arrays import Array
from ..bundle.engine_files import CACHE_SUFFIX, MOST_CACHE_BYTES, opened_cache, sealed_cache
from ..bundle.manifest import Bundle, BundleNetwork
from ..contract import NetworkName
from ..cuda.device_array import DeviceArray, byte_count
from ..cuda.driver import OutOfDeviceMemoryError, ignoring_lost_device
from ..files.atomic_file import replaced_at_end
from ..files.regular_file import read_bounded
from ..shapes import letters_of
from .call_plans import CallPlanner, Sizes, size_key
from .context import Shaped, ShapedContext
from .device import ACTIVATION_STEP_BYTES, EngineDevice
from .graphs import CallGraphs
from .layers import LayerSums
from .library import EngineContext, TensorRT
from .record import EngineRecord, engine_directory
from .trust import build_command, verified_plan

logger = logging.getLogger(__name__)

SHAPES_KNOWN = 256
"""Shapes of a network whose outputs and activations are remembered; a video has a few dozen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How engines use the device.

    `memory_budget` in bytes bounds weights, activations, arrays and stored features together; None is
    no bound. `memory_share` above 0 and below 1 bounds them by that part of the device, where there is no budget, less
    what each process takes there beside them. `cuda_graphs` records calls that come again at the same shapes.
    """

    memory_budget: int | None = None
    memory_share: float = 1.0
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        if self.memory_budget is not None and self.memory_budget <= 0:
            raise GmosError(f"--memory_budget {self.memory_budget}: expected more than 0 MiB")


class EngineRunner:
    """One network: its engine, a context, and the calls it has captured."""

    def __init__(
        self,
        network: NetworkName,
        *,
        bundle: Bundle,
        library: TensorRT,
        device: EngineDevice,
        options: EngineOptions,
    ) -> None:
        self.entry: BundleNetwork = bundle.networks[network]
        self._library = library
        self._device = device
        self.record, self._engine = self._load(bundle)
        # For the cards that the engine is for, this one among them.
        build_line = build_command(bundle.root, library.flavour, [network], targets=self.record.targets)
        self._cache_file = engine_directory(bundle.root, library.flavour) / f"{network}{CACHE_SUFFIX}"
        # Objects and memories come and go: nearly every frame would have kernels compiled for it.
        self._specialized = "O" not in letters_of((*self.entry.inputs, *self.entry.outputs))
        self._compiled: set[tuple[int, object]] = set()
        self._stored = self._stored_cache(bundle)
        self._cache: Any = None
        self._warm = False
        self._planner = CallPlanner(self.entry, self.record.profiles, build_line)
        self._context = self._new_context()
        self._known: dict[tuple[int, object], Shaped] = {}
        self._graphs = (
            CallGraphs(
                network,
                self.record.tensors,
                device,
                lambda: self._new_context(own_graphs=library.own_cuda_graphs),
                own=library.own_cuda_graphs,
            )
            if options.cuda_graphs
            else None
        )

    def __call__(self, inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
        """See `runtime.backend.Runner`; `inputs` also has the tables of the standard graph.

        Raises:
            GmosError: no profile takes the shapes, the device has no room, or the library fails.
        """
        # The library works on the device of the calling thread.
        self._device.cuda.enter()
        try:
            arrays, sizes = self._sorted_inputs(inputs)
            return self._run(arrays, sizes)
        except OutOfDeviceMemoryError as error:
            raise GmosError(f"out of memory in {self.entry.name}: {error}") from error

    def fit(self, sizes: Sizes, room: int) -> tuple[Shaped, int]:
        """Cut calls at these sizes until their working memory fits, from now on and as far as that helps.

        Args:
            sizes: of all inputs.
            room: bytes.

        Returns:
            What the largest part needs, and its length along the first axis.

        Raises:
            GmosError: no profile takes them.
        """
        found = self._largest_part(sizes)
        while found[0].activation_bytes > room and self._planner.cut_smaller(sizes):
            found = self._largest_part(sizes)
            logger.debug("%s: %d at a time, for memory", self.entry.name, found[1])
        return found

    @contextmanager
    def profiled(self) -> Iterator[LayerSums]:
        """While this lasts, calls are not captured, and the times of their layers are added up."""
        made = self._made_context()
        sums = LayerSums(self._library, self._engine, made.context)
        kept = self._context, self._graphs
        self._context, self._graphs = self._shaped_context(made.context), None
        try:
            yield sums
        finally:
            with ignoring_lost_device(self._device.cuda):
                self._device.cuda.synchronize(self._device.stream)
            self._context.close()
            self._context, self._graphs = kept

    def close(self) -> None:
        """Release the engine, and keep the kernels that were compiled for it."""
        if self._graphs is not None:
            self._graphs.close()
        self._save_cache()
        self._context.close()
        self._cache = None
        if self._engine is not None:
            self._device.pool.reserve(-self.record.weight_bytes)
        self._engine = None

    def _load(self, bundle: Bundle) -> tuple[EngineRecord, Any]:
        device, library, name = self._device, self._library, self.entry.name
        record, plan = verified_plan(bundle, name, library, device.identity)
        if record.weight_bytes > (free := device.pool.free_bytes()):
            raise GmosError(
                f"the weights of {name} take {record.weight_bytes >> 20} MiB, and {free >> 20} MiB are left on "
                f"{device.cuda}; raise --memory_budget, close other programs that use the device, or export "
                "with --precision fp16"
            )
        engine = library.deserialize(plan, host_code=bool(record.options.get("version_compatible")))
        device.pool.reserve(record.weight_bytes)
        return record, engine

    def _new_context(self, *, own_graphs: bool = False) -> ShapedContext:
        return self._shaped_context(self._made_context(own_graphs=own_graphs).context)

    def _made_context(self, *, own_graphs: bool = False) -> EngineContext:
        """A context of the library; all of an engine share its runtime cache."""
        made = self._library.create_context(
            self._engine,
            cuda_graphs=own_graphs,
            specialized=self._specialized,
            cache=self._stored,
            shared=self._cache,
        )
        if self._cache is None:
            self._cache, self._warm = made.cache, made.warm
        return made

    def _shaped_context(self, context: Any) -> ShapedContext:  # noqa: ANN401 - the library's
        tensors, cuda = self.record.tensors, self._device.cuda
        return ShapedContext(self.entry.name, context, tensors, self._library, cuda)

    def _sorted_inputs(self, inputs: Mapping[str, Any]) -> tuple[dict[str, DeviceArray], Sizes]:
        """Device inputs, and the sizes of all inputs; host inputs are small numpy arrays."""
        arrays: dict[str, DeviceArray] = {}
        sizes: dict[str, tuple[int, ...]] = {}
        for tensor in self.record.tensors:
            if tensor.mode == "output":
                continue
            given = inputs[tensor.name]
            if tensor.host:
                sizes[tensor.name] = tuple(int(n) for n in given)
                continue
            array = given if isinstance(given, DeviceArray) else self._device.upload(given)
            if array.dtype != tensor.dtype:
                raise ValueError(
                    f"{self.entry.name}: {tensor.name} is {array.dtype}, its engine takes {tensor.dtype}"
                )
            arrays[tensor.name], sizes[tensor.name] = array, array.shape
        return arrays, sizes

    def _run(self, arrays: Mapping[str, DeviceArray], sizes: Sizes) -> dict[str, Array]:
        """One call, or several whose outputs are written side by side."""
        self._make_room(sizes)
        plan = self._planner.plan(sizes)
        outputs: dict[str, DeviceArray] = {}
        start = 0
        for length in plan.lengths:
            stop = start + length
            part = {
                name: array.rows(start, stop) if name in plan.cut else array for name, array in arrays.items()
            }
            part_sizes = {name: part[name].shape if name in part else size for name, size in sizes.items()}
            if not outputs:
                shaped = self._shaped(plan.profile, part_sizes)
                outputs = self._new_outputs(shaped, sum(plan.lengths) if plan.cut else None)
            place = {name: array.rows(start, stop) if plan.cut else array for name, array in outputs.items()}
            self._run_part(plan.profile, part_sizes, {**part, **place})
            start = stop
        self._device.note_ready(list(outputs.values()))
        return dict(outputs)

    def _make_room(self, sizes: Sizes) -> None:
        """Cut a call that needs more working memory than there is beside its outputs."""
        needed, activations = self._largest_part(sizes)[0], self._device.activations
        if needed.activation_bytes > activations.nbytes:
            outputs = sum(
                byte_count(needed.output_shapes[tensor.name], tensor.dtype)
                * len(self._planner.plan(sizes).lengths)
                for tensor in self.record.tensors
                if tensor.mode == "output"
            )
            room = self._device.pool.free_bytes() + activations.nbytes - outputs
            self.fit(sizes, room - ACTIVATION_STEP_BYTES)

    def _largest_part(self, sizes: Sizes) -> tuple[Shaped, int]:
        """What the largest call needs that a call at these sizes is cut to, and its length."""
        plan = self._planner.plan(sizes)
        length = plan.lengths[0]
        part = {name: (length, *size[1:]) if name in plan.cut else size for name, size in sizes.items()}
        return self._shaped(plan.profile, part), length

    def _run_part(self, profile: int, sizes: Sizes, arrays: Mapping[str, DeviceArray]) -> None:
        if self._graphs is not None and self._graphs.run(profile, sizes, arrays):
            return
        shaped = self._context.shape(profile, sizes, self._device.stream)
        activation = self._device.activations.require(shaped.activation_bytes)
        self._tell_compilation(profile, sizes)
        addresses = {name: array.pointer for name, array in arrays.items()}
        self._context.run(addresses, activation, self._device.stream)

    def _tell_compilation(self, profile: int, sizes: Sizes) -> None:
        """Say that a call takes longer because its kernels are compiled: once per shape, where none were stored."""
        key = (profile, size_key(sizes))
        if (
            not self._library.own_runtime_cache
            or not self._specialized
            or self._warm
            or key in self._compiled
        ):
            return
        self._compiled.add(key)
        shapes = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in sizes.items())
        logger.info("%s: kernels are compiled for %s, and kept for the next run", self.entry.name, shapes)

    def _shaped(self, profile: int, sizes: Sizes) -> Shaped:
        """What a call needs and gives; a shape that was seen before need not be set to know that."""
        key = (profile, size_key(sizes))
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= SHAPES_KNOWN:
                self._known.clear()
            found = self._known[key] = self._context.shape(profile, sizes, self._device.stream)
        return found

    def _new_outputs(self, shaped: Shaped, length: int | None) -> dict[str, DeviceArray]:
        """Arrays for the outputs; of that length along the first axis if the call was cut."""
        outputs = {}
        for tensor in self.record.tensors:
            if tensor.mode == "output":
                shape = shaped.output_shapes[tensor.name]
                shape = shape if length is None else (length, *shape[1:])
                outputs[tensor.name] = self._device.empty(shape, tensor.dtype)
        return outputs

    def _stored_cache(self, bundle: Bundle) -> bytes | None:
        """Kernels of an earlier run, native code too: with a seal of this user's, or trusted as engines are."""
        if not self._library.own_runtime_cache:
            return None
        try:
            kept = read_bounded(self._cache_file, MOST_CACHE_BYTES)
            vouched = bundle.vouches_for(self._cache_file, kept)
            if self._cache_file.is_symlink() and not (vouched and bundle.signed):
                return None
            content, doubt = opened_cache(kept, self.record.plan_sha256, vouched=vouched)
        except OSError:
            return None
        if doubt is None:
            return content or None
        logger.info(
            "%s: %s is not used (%s): kernels are compiled again", self.entry.name, self._cache_file, doubt
        )
        return None

    def _save_cache(self) -> None:
        """Keep the kernels compiled in this run; a place that cannot be written costs time, not results."""
        if self._cache is None or self._device.cuda.is_lost:
            return
        compiled = self._library.serialized_cache(self._cache)
        if compiled == self._stored:
            return
        try:
            content = sealed_cache(compiled, self.record.plan_sha256)
            with replaced_at_end(self._cache_file) as temporary:
                temporary.write_bytes(content)
        except GmosError as error:
            logger.warning("kernels are compiled again at the next run: %s", error)
