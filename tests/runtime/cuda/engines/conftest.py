"""A TensorRT library whose engines compute on the fake CUDA device, and bundles with such engines."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.export.onnx.shape_profiles import profiles_of, shape_profiles
from gmos_deploy.export.onnx.signature import signature
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.runtime.bundle.manifest import FORMAT, Bundle, BundleTensor, open_bundle
from gmos_deploy.runtime.contract import NetworkName, Variant, network_specs
from gmos_deploy.runtime.cuda.driver import Cuda
from gmos_deploy.runtime.shapes import call_lengths, size_of
from gmos_deploy.runtime.tensorrt import backend as engine_backend
from gmos_deploy.runtime.tensorrt import choice as engine_choice
from gmos_deploy.runtime.tensorrt import gpu as cuda_device
from gmos_deploy.runtime.tensorrt.backend import EngineBackend
from gmos_deploy.runtime.tensorrt.library import Flavour, TensorRT, wrap_library
from gmos_deploy.runtime.tensorrt.record import (
    DeviceIdentity,
    EngineRecord,
    EngineTensor,
    ProfileRange,
    engine_directory,
    host_platform,
    plan_path,
    record_path,
    write_engine_record,
)
from gmos_deploy.runtime.tensorrt.runner import EngineOptions
from gmos_deploy.runtime.tensorrt.trust import graph_sources

Arrays = dict[str, NDArray[Any]]
Compute = Callable[[str, Arrays], Arrays]
STALE = 0xDD
"""Bytes that a graph of a changed context writes."""

GPU = DeviceIdentity(name="Fake GPU", compute_capability=(8, 7))
TINY = preset("tiny")
WEIGHT_BYTES = 3 << 20
"""Of every fake engine."""


def activation_bytes(sizes: Mapping[str, tuple[int, ...]]) -> int:
    """What a fake context needs: four bytes for each number that it is fed."""
    return 4 * sum(math.prod(size) for size in sizes.values())


class FakeEngine:
    """An engine that computes what its world says."""

    def __init__(self, world: World, network: str) -> None:
        self.world, self.name = world, network
        self.record = world.records[network]  # type: ignore[index]

    def create_runtime_config(self) -> Any:
        return FakeConfig(self.world)

    def create_execution_context(self, how: Any) -> Any:
        assert getattr(how, "strategy", how) == "user managed"
        if self.world.no_contexts:
            self.world.library.log.add("ERROR", "no room for a context: out of memory")
            return None
        context = FakeContext(self, captures=getattr(how, "cuda_graph_strategy", "") == "whole")
        self.world.contexts.append(context)
        return context

    def create_engine_inspector(self) -> Any:
        layers = self.world.layers(self.name)
        named = [{"Name": layers[0][0], "LayerType": "gemm"}, *(name for name, _ in layers[1:])]
        return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": named}))


class FakeConfig:
    """A runtime configuration of TensorRT-RTX."""

    def __init__(self, world: World) -> None:
        self.world, self.strategy, self.cuda_graph_strategy = world, None, None
        self.dynamic_shapes_kernel_specialization_strategy: str | None = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Any:
        return FakeCache()

    def set_runtime_cache(self, cache: Any) -> bool:
        self.world.caches.append(
            (cache, self.cuda_graph_strategy, self.dynamic_shapes_kernel_specialization_strategy)
        )
        return True


class FakeCache:
    content = b"compiled here"

    def deserialize(self, blob: bytes) -> bool:
        if blob.startswith(b"compiled"):
            self.content = blob
            return True
        return False

    def serialize(self) -> bytes:
        return self.content


class FakeContext:
    """Checks every shape and address it is given; its work reads and writes them when the stream runs."""

    def __init__(self, engine: FakeEngine, *, captures: bool = False) -> None:
        self.engine, self.world = engine, engine.world
        self.captures, self.captured_call = captures, None
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.activation: tuple[int, int] | None = None
        self.runs = 0
        self.profiler: Any = None
        self.enqueue_emits_profile = False

    def tensors(self, mode: str) -> list[EngineTensor]:
        return [tensor for tensor in self.engine.record.tensors if tensor.mode == mode]

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile, self.shapes = index, {}
        return index < len(self.engine.record.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        allowed = self.engine.record.profiles[self.profile][name]
        self.shapes[name] = shape
        return all(a <= n <= b for a, n, b in zip(allowed.min, shape, allowed.max, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address != 0

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of device inputs and values of host inputs, as they are now."""
        found = dict(self.shapes)
        for tensor in self.tensors("input"):
            if tensor.host:
                values = (ctypes.c_int64 * tensor.shape[0]).from_address(self.addresses[tensor.name])
                found[tensor.name] = tuple(values)
        return found

    def infer_shapes(self) -> list[str]:
        names = [tensor.name for tensor in self.tensors("input")]
        return [name for name in names if name not in self.shapes and name not in self.addresses]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        lengths = self.world.lengths(self.engine.name, self.sizes())
        tensor = next(t for t in self.world.bundle.networks[self.engine.name].outputs if t.name == name)  # type: ignore[index]
        return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in tensor.axes)

    def update_device_memory_size_for_shapes(self) -> int:
        self.activation = None
        return activation_bytes(self.sizes())

    def set_device_memory(self, address: int, nbytes: int) -> None:
        self.activation = (address, nbytes)

    def execute_async_v3(self, number: int) -> bool:
        if self.engine.name in self.world.broken:
            self.world.library.log.add("ERROR", self.world.broken[self.engine.name])
            return False
        if self.world.starved() and self is self.world.contexts[-1]:
            self.world.library.log.add("ERROR", "Error Code 2: OutOfMemory (no further information)")
            return False
        self.runs += 1
        cuda = self.world.fake_cuda
        name = threading.current_thread().name
        assert name in dict(cuda.entered), f"thread {name} runs on whatever device is the first"
        sizes, addresses, activation = self.sizes(), dict(self.addresses), self.activation
        assert activation is not None, "no activation memory"
        assert activation[1] >= activation_bytes(sizes)
        assert activation[0] % 256 == 0

        captured = cuda.streams[number].capturing is not None
        call = (sizes, addresses, activation)
        if self.captures:
            # As TensorRT-RTX does: anew whenever a shape or an address differs from the call before.
            counts = self.world.replays if call == self.captured_call else self.world.captures
            counts[self.engine.name] += 1
            self.captured_call = call

        def work() -> bool:
            # A graph of a context that has other shapes now would compute nonsense: so does this.
            stale = captured and self.sizes() != sizes
            cuda.view(*activation, cuda.device)[:] = 0xEE
            inputs: Arrays = {}
            for tensor in self.tensors("input"):
                if tensor.host:
                    inputs[tensor.name] = np.array(sizes[tensor.name], np.int64)
                    continue
                nbytes = math.prod(sizes[tensor.name]) * np.dtype(tensor.dtype).itemsize
                raw = cuda.view(addresses[tensor.name], nbytes, cuda.device).copy()
                inputs[tensor.name] = raw.view(tensor.dtype).reshape(sizes[tensor.name])
            for name, values in self.world.compute(self.engine.name, inputs).items():
                raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
                cuda.view(addresses[name], raw.nbytes, cuda.device)[:] = STALE if stale else raw
            self.world.computed[self.engine.name] += 1
            return True

        cuda.add(cuda.streams[number], work)
        if self.profiler is not None and self.enqueue_emits_profile:
            assert not captured, "layers of a captured call cannot be timed"
            cuda.run(cuda.streams[number])
            for name, ms in self.world.layers(self.engine.name):
                self.profiler.report_layer_time(name, ms)
        return True


def toy_compute(bundle: Bundle) -> Compute:
    """Networks whose outputs are numbers that depend on every input, row by row where calls can be cut."""

    def compute(name: str, inputs: Arrays) -> Arrays:
        entry = bundle.networks[name]  # type: ignore[index]
        lengths = bind(entry.inputs + entry.graphs["standard"].tables, inputs)
        rows = lengths.get("B", lengths.get("O", 1))
        code = np.zeros(rows)
        for weight, (_, array) in enumerate(sorted(inputs.items()), start=1):
            axes = next(t.axes for t in (*entry.inputs, *entry.graphs["standard"].tables) if t.name == _)
            by_row = array.reshape(rows, -1) if axes[:1] in (("B",), ("O",)) else array.reshape(1, -1)
            code += weight * (by_row.astype(np.float64).sum(axis=1) % 251)
        outputs = {}
        for number, tensor in enumerate(entry.outputs):
            shape = tuple(lengths[axis] if isinstance(axis, str) else axis for axis in tensor.axes)
            values = (code + number) % 199
            whole = (
                values.reshape(-1, *(1,) * (len(shape) - 1)) if tensor.axes[0] in ("B", "O") else values.sum()
            )
            outputs[tensor.name] = np.broadcast_to(whole, shape).astype(tensor.dtype)
        return outputs

    return compute


def bind(tensors: tuple[BundleTensor, ...], inputs: Arrays) -> dict[str, int]:
    """The lengths of the axes from the inputs, which must agree."""
    lengths: dict[str, int] = {}
    for tensor in tensors:
        for axis, length in call_lengths((tensor,), inputs).items():
            assert lengths.setdefault(axis, length) == length, (tensor.name, axis)
    return lengths


class World:
    """A bundle with engines, the library that runs them and the device they run on, all of them fake."""

    def __init__(
        self, root: Path, make_cuda: Callable[..., Any], flavour: Flavour = "tensorrt", **options: Any
    ) -> None:
        self.flavour: Flavour = flavour
        self.variant: Variant = options.pop("variant", "gmos")
        self.pi3_sizes = options.pop("pi3_sizes", ((84, 56),))
        self.max_batch = options.pop("max_batch", 4)
        self.fake_cuda = make_cuda(**options)
        self.model = model_spec(TINY, self.variant)
        self.bundle = write_fake_bundle(root, self)
        self.compute: Compute = toy_compute(self.bundle)
        self.records: dict[NetworkName, EngineRecord] = {}
        self.contexts: list[FakeContext] = []
        self.caches: list[tuple[FakeCache, Any, Any]] = []
        self.captures: Counter[str] = Counter()
        """Graphs that the library itself has captured, by network, and how often it has replayed them."""
        self.replays: Counter[str] = Counter()
        self.computed: Counter[str] = Counter()
        self.broken: dict[str, str] = {}
        self.no_contexts = False
        self.starved: Callable[[], bool] = lambda: False
        """Whether the newest context finds no memory when it runs."""
        self.library: TensorRT = wrap_library(flavour, self._module())
        for name in self.bundle.networks:
            self.write_engine(name)

    def write_engine(self, name: NetworkName, **fields: Any) -> EngineRecord:
        """An engine file with its record; keywords replace fields of the record."""
        record = replace(fake_record(self, name), **fields)
        directory = engine_directory(self.bundle.root, self.flavour)
        directory.mkdir(parents=True, exist_ok=True)
        plan_path(directory, name).write_bytes(fake_plan(name))
        write_engine_record(record_path(directory, name), record)
        self.records[name] = record
        return record

    def backend(self, **options: Any) -> EngineBackend:
        """A backend on all of it; keywords are `EngineOptions`'."""
        return EngineBackend(self.bundle, self.library, Cuda(0, self.fake_cuda), EngineOptions(**options))

    def layers(self, network: str) -> list[tuple[str, float]]:
        """Names and milliseconds of an engine's layers."""
        return [(f"{network}_gemm", 3.0), (f"__myl_{network}_AddMul", 1.0)]

    def lengths(self, network: str, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        entry = self.bundle.networks[network]  # type: ignore[index]
        arrays: Arrays = {
            name: np.array(size, np.int64) if name == "video_hw" else np.broadcast_to(np.float32(0), size)
            for name, size in sizes.items()
        }
        return bind(entry.inputs + entry.graphs["standard"].tables, arrays)

    def _module(self) -> Any:
        class Runtime:
            def __init__(runtime, logger: Any) -> None: ...  # noqa: N805

            def deserialize_cuda_engine(runtime, plan: Any) -> FakeEngine | None:  # noqa: N805
                network = bytes(plan).decode().removeprefix("plan of ")
                if network in self.broken:
                    self.library.log.add("ERROR", self.broken[network])
                    return None
                self.fake_cuda.outside += WEIGHT_BYTES
                return FakeEngine(self, network)

        class IProfiler:
            def __init__(listener) -> None: ...  # noqa: N805

        class Severity:
            VERBOSE = 4

        class ILogger:
            VERBOSE = 4

            def __init__(logger) -> None: ...  # noqa: N805

        return SimpleNamespace(
            __version__="1.7.1" if self.flavour == "tensorrt-rtx" else "10.3.0",
            Runtime=Runtime,
            ILogger=ILogger,
            IProfiler=IProfiler,
            LayerInformationFormat=SimpleNamespace(JSON=1),
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
            CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole", DISABLED="disabled"),
            DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager", NONE="none"),
            ComputeCapability=SimpleNamespace(__members__={"SM87": 0}),
        )


def fake_plan(name: str) -> bytes:
    return f"plan of {name}".encode()


def fake_record(world: World, name: NetworkName) -> EngineRecord:
    """As the builder writes it for the bundle's profiles."""
    entry = world.bundle.networks[name]
    tables = entry.graphs["standard"].tables
    ranges = []
    for profile in entry.profiles:
        lengths = profile
        ranges.append(
            {
                tensor.name: ProfileRange(
                    **{
                        key: size_of(tensor, {axis: at[i] for axis, at in lengths.items()})
                        for i, key in enumerate(("min", "opt", "max"))
                    }
                )
                for tensor in (*entry.inputs, *tables)
            }
        )

    def tensor(given: BundleTensor, mode: Any) -> EngineTensor:
        shape = tuple(-1 if isinstance(axis, str) else axis for axis in given.axes)
        return EngineTensor(name=given.name, dtype=given.dtype, shape=shape, mode=mode, host=given.host)

    plan = fake_plan(name)
    ahead = world.flavour == "tensorrt-rtx"
    return EngineRecord(
        network=name,
        flavour=world.flavour,
        library_version="1.7.1" if ahead else "10.3.0",
        sources=graph_sources(world.bundle, name),
        plan_bytes=len(plan),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        precision="fp32",
        device=None if ahead else GPU,
        targets=(GPU.target,) if ahead else (),
        platform=host_platform(),
        profiles=tuple(dict(found) for found in ranges),
        tensors=(
            *(tensor(t, "input") for t in (*entry.inputs, *tables)),
            *(tensor(t, "output") for t in entry.outputs),
        ),
        options={},
        activation_bytes=tuple(activation_bytes({k: v.max for k, v in found.items()}) for found in ranges),
        weight_bytes=WEIGHT_BYTES,
        attention={},
        built="2026-11-22",
        seconds=1.0,
    )


def write_fake_bundle(root: Path, world: World) -> Bundle:
    """A bundle whose graphs are never loaded: nothing but its manifest is real."""
    root.mkdir(parents=True)
    model = world.model
    rng = np.random.default_rng(5)
    grid = TINY.pi3.dino_grid
    np.save(
        root / "position_embedding.npy", rng.standard_normal((grid, grid, TINY.pi3.dim), dtype=np.float32)
    )
    ranges = shape_profiles(world.pi3_sizes, model, max_batch=world.max_batch)
    networks = {}
    for name in network_specs(model):
        sign = signature(name, model, head_dim=TINY.pi3.head_dim, precision="fp32")
        (root / f"{name}.onnx").write_bytes(b"graph of " + name.encode())
        graph = {"file": f"{name}.onnx", "weights": [], "tables": [asdict(table) for table in sign.tables]}
        networks[name] = {
            "precision": "fp32",
            "inputs": [asdict(tensor) for tensor in sign.inputs],
            "outputs": [asdict(tensor) for tensor in sign.outputs],
            "graphs": {"standard": graph, "onnxruntime": graph},
            "profiles": list(profiles_of(name, ranges if "h" in sign.letters else ranges[:1], model)),
            "parameters": 1,
            "flops": 1.0,
            "flops_at": {},
            "gate": {},
        }
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in root.iterdir()
    }
    manifest = {
        "format": FORMAT, "model": asdict(model), "precision": "fp32", "head_precision": "fp32", "opset": 20,
        "pi3": {"head_dim": TINY.pi3.head_dim, "rope_base": TINY.pi3.rope_base}, "resolutions": [],
        "networks": networks, "checkpoints": {}, "versions": {}, "files": files,
    }  # fmt: skip
    (root / "bundle.json").write_text(json.dumps(manifest))
    return open_bundle(root)


@pytest.fixture
def make_world(tmp_path: Path, make_fake_cuda: Callable[..., Any]) -> Callable[..., World]:
    """Makes a world of tiny networks; keywords: make_cuda, flavour, variant, pi3_sizes, max_batch, memory."""
    made = iter(range(9))
    return lambda *, make_cuda=make_fake_cuda, **options: World(
        tmp_path / f"bundle{next(made)}", make_cuda, **options
    )


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """One for TensorRT, with a profile for Pi3 frames of 84x56 pixels and up to 4 windows."""
    return make_world()


@pytest.fixture
def backend(world: World) -> Iterator[EngineBackend]:
    """On `world`, with CUDA graphs."""
    made = world.backend()
    yield made
    made.close()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[World], None]]:
    """Makes a world's library and device those of this machine."""

    def install(world: World) -> None:
        monkeypatch.setattr(engine_backend, "load_tensorrt", lambda flavour: world.library)
        monkeypatch.setattr(engine_choice, "load_tensorrt", lambda flavour: world.library)
        monkeypatch.setattr(engine_backend, "Cuda", lambda index: Cuda(index, world.fake_cuda))
        monkeypatch.setattr(cuda_device, "has_driver", lambda: True)
        monkeypatch.setattr(cuda_device, "load_cuda", lambda: world.fake_cuda)

    yield install
    package = logging.getLogger("gmos_deploy")
    package.handlers = []
    package.setLevel(logging.NOTSET)
