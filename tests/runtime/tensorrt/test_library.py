"""One face for TensorRT 10.3 to 11 and TensorRT-RTX: what each version has, and what is said where it has not."""

from __future__ import annotations

import enum
import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.tensorrt import library as engine_library
from gmos_deploy.runtime.tensorrt.library import Flavour, TensorRT, load_tensorrt, wrap_library


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class FakeLogger:
    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING
    INFO, VERBOSE = Severity.INFO, Severity.VERBOSE


class FakeCache:
    def __init__(self, *, fits: bool) -> None:
        self.fits = fits
        self.given: bytes | None = None

    def deserialize(self, content: bytes) -> bool:
        self.given = content
        return self.fits

    def serialize(self) -> bytes:
        return b"kernels"


class FakeEngine:
    """Notes how its context was asked for; `context` None is what a library without memory gives."""

    name = "dino"

    def __init__(self, *, context: object = "context", fits: bool = True) -> None:
        self.context = context
        self.asked: Any = None
        self.config = SimpleNamespace(
            cuda_graph_strategy=None,
            dynamic_shapes_kernel_specialization_strategy=None,
            strategy=None,
            cache=None,
        )
        self.cache = FakeCache(fits=fits)
        self.config.create_runtime_cache = lambda: self.cache
        self.config.set_execution_context_allocation_strategy = lambda chosen: setattr(
            self.config, "strategy", chosen
        )
        self.config.set_runtime_cache = lambda cache: setattr(self.config, "cache", cache)

    def create_runtime_config(self) -> Any:
        return self.config

    def create_execution_context(self, asked: Any) -> Any:
        self.asked = asked
        return self.context


class FakeRuntime:
    made: list[FakeRuntime]
    engine: Any

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.engine_host_code_allowed = False
        type(self).made.append(self)

    def deserialize_cuda_engine(self, plan: Any) -> Any:
        if self.engine is None:
            self.logger.log(Severity.ERROR, "Version tag does not match.\nNote: Current Version: 240")
        return self.engine


def members(*names: str) -> Any:
    return SimpleNamespace(**{name: name for name in names}, __members__=dict.fromkeys(names))


def fake_module(version: str, *, rtx: bool = False, same_capability: bool = True, engine: Any = None) -> Any:
    """The attributes of a version that this project looks at."""

    class Runtime(FakeRuntime):
        made: list[FakeRuntime] = []  # noqa: RUF012 - one list per fake

    Runtime.engine = engine
    levels = ["NONE", "AMPERE_PLUS"] + ["SAME_COMPUTE_CAPABILITY"] * same_capability
    return SimpleNamespace(
        __version__=version,
        ILogger=FakeLogger,
        Runtime=Runtime,
        BuilderFlag=members("TF32", "VERSION_COMPATIBLE"),
        HardwareCompatibilityLevel=members(*levels),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        ExecutionContextAllocationStrategy=members("STATIC", "USER_MANAGED"),
        CudaGraphStrategy=members("DISABLED", "WHOLE_GRAPH_CAPTURE"),
        DynamicShapesKernelSpecializationStrategy=members("LAZY", "EAGER", "NONE"),
        ComputeCapability=members("NONE", "CURRENT", "SM75", "SM86", "SM89") if rtx else None,
    )


@pytest.fixture
def jetpack_6() -> TensorRT:
    """TensorRT 10.3, which lacks SAME_COMPUTE_CAPABILITY."""
    return wrap_library("tensorrt", fake_module("10.3.0", same_capability=False))


VERSIONS = [
    ("tensorrt", "10.3.0", (10, 3, 0)),
    ("tensorrt", "10.13.2.6", (10, 13, 2)),
    ("tensorrt", "11.4.1.12", (11, 4, 1)),
    ("tensorrt-rtx", "1.7.1.116", (1, 7, 1)),
]


@pytest.mark.parametrize(("flavour", "text", "version"), VERSIONS)
def test_versions_that_are_supported(flavour: Flavour, text: str, version: tuple[int, int, int]) -> None:
    """From JetPack 6's TensorRT to 11, and TensorRT-RTX from 1.7."""
    library = wrap_library(flavour, fake_module(text, rtx=flavour == "tensorrt-rtx"))
    assert library.version == version
    assert library.label.endswith(text)


@pytest.mark.parametrize(
    ("flavour", "text", "message"),
    [
        ("tensorrt", "8.6.1", r"TensorRT 8\.6\.1 is installed, expected 10\.3 or later and before 12\.0"),
        ("tensorrt", "10.2.0", r"expected 10\.3 or later"),
        ("tensorrt", "12.0.0", r"before 12\.0"),
        ("tensorrt", "nightly", r"TensorRT nightly is installed"),
        ("tensorrt-rtx", "1.6.0", r"TensorRT-RTX 1\.6\.0 is installed, expected 1\.7 .*gmos-deploy\[rtx\]"),
    ],
)
def test_versions_that_are_refused(flavour: Flavour, text: str, message: str) -> None:
    """With what was found, what is needed and how to get it."""
    with pytest.raises(GmosError, match=message):
        wrap_library(flavour, fake_module(text))


@pytest.mark.parametrize(
    ("flavour", "module", "message"),
    [
        ("tensorrt", "tensorrt", r"--backend tensorrt needs TensorRT .*gmos-deploy\[gpu\].*JetPack"),
        ("tensorrt-rtx", "tensorrt_rtx", r"--backend tensorrt-rtx needs TensorRT-RTX .*gmos-deploy\[rtx\]"),
    ],
)
def test_a_missing_library_is_named_with_its_command(
    flavour: Flavour, module: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of None is how Python marks a module that cannot be imported."""
    monkeypatch.setitem(sys.modules, module, None)
    load_tensorrt.cache_clear()
    with pytest.raises(GmosError, match=message):
        load_tensorrt(flavour)
    load_tensorrt.cache_clear()


def test_a_library_without_its_shared_objects_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bindings load them on import: a missing one is no ImportError."""

    def fail(name: str) -> Any:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(engine_library.importlib, "import_module", fail)
    load_tensorrt.cache_clear()
    with pytest.raises(GmosError, match=r"needs TensorRT \(libnvinfer\.so\.10"):
        load_tensorrt("tensorrt")
    load_tensorrt.cache_clear()


def test_what_tensorrt_has(jetpack_6: TensorRT) -> None:
    """Options that a build may ask for; hardware levels are those of the version."""
    assert not jetpack_6.builds_ahead
    assert jetpack_6.targets == ()
    assert jetpack_6.has_timing_cache
    assert jetpack_6.has_version_compatible
    assert jetpack_6.hardware_levels == ("ampere-plus",)
    later = wrap_library("tensorrt", fake_module("11.4.1"))
    assert later.hardware_levels == ("ampere-plus", "same-capability")


def test_what_tensorrt_rtx_has() -> None:
    """Targets instead of compatibility levels; flags and a target that its builder fails on do not count."""
    library = wrap_library("tensorrt-rtx", fake_module("1.7.1", rtx=True))
    assert library.builds_ahead
    assert library.targets == ("sm86", "sm89")
    assert library.hardware_levels == ()
    assert not library.has_timing_cache
    assert not library.has_version_compatible
    assert library.own_cuda_graphs
    assert library.own_runtime_cache


def test_networks_are_strongly_typed_and_tf32_is_off(jetpack_6: TensorRT) -> None:
    """Precision is in the graph; float32 products do not lose 13 bits unless asked."""
    cleared: list[str] = []
    builder = SimpleNamespace(
        create_network=lambda flags: flags,
        create_builder_config=lambda: SimpleNamespace(clear_flag=cleared.append),
    )
    assert jetpack_6.create_network(builder) == 1 << 1
    jetpack_6.create_config(builder)
    assert cleared == ["TF32"]


def test_targets_and_levels_are_set_by_the_library_s_names(jetpack_6: TensorRT) -> None:
    """As the builder's configuration wants them."""
    config = SimpleNamespace(hardware_compatibility_level=None)
    jetpack_6.set_hardware_level(config, "ampere-plus")
    assert config.hardware_compatibility_level == "AMPERE_PLUS"
    put: list[tuple[str, int]] = []
    config = SimpleNamespace(
        num_compute_capabilities=0, set_compute_capability=lambda name, i: put.append((name, i))
    )
    wrap_library("tensorrt-rtx", fake_module("1.7.1", rtx=True)).set_targets(config, ("sm86", "sm89"))
    assert config.num_compute_capabilities == 2
    assert put == [("SM86", 0), ("SM89", 1)]


def test_an_engine_is_loaded_and_a_refusal_has_the_library_s_reason() -> None:
    """In one line; runtimes are kept, for they must outlive their engines."""
    module = fake_module("10.3.0", engine="engine")
    library = wrap_library("tensorrt", module)
    assert library.deserialize(b"plan") == "engine"
    assert library.deserialize(b"plan", host_code=True) == "engine"
    assert [runtime.engine_host_code_allowed for runtime in module.Runtime.made] == [False, True]
    library.deserialize(b"another")
    assert len(module.Runtime.made) == 2
    broken = wrap_library("tensorrt", fake_module("10.3.0"))
    with pytest.raises(
        GmosError, match=r"^TensorRT 10\.3\.0 cannot load the engine: Version tag does not match\. Note: "
    ):
        broken.deserialize(b"plan")


def test_a_context_of_tensorrt_takes_the_caller_s_memory(jetpack_6: TensorRT) -> None:
    """Graphs and caches are not its business."""
    engine = FakeEngine()
    made = jetpack_6.create_context(engine, cuda_graphs=True, specialized=True)
    assert (made.context, made.cache, engine.asked) == ("context", None, "USER_MANAGED")


@pytest.mark.parametrize(("graphs", "strategy"), [(True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")])
def test_a_context_of_tensorrt_rtx_has_graphs_and_a_cache(graphs: bool, strategy: str) -> None:
    """Both through its runtime configuration."""
    library = wrap_library("tensorrt-rtx", fake_module("1.7.1", rtx=True))
    engine = FakeEngine()
    made = library.create_context(engine, cuda_graphs=graphs, specialized=True, cache=b"old")
    assert made.warm
    assert engine.asked is engine.config
    assert (engine.config.strategy, engine.config.cuda_graph_strategy) == ("USER_MANAGED", strategy)
    assert engine.config.cache is made.cache is engine.cache
    assert engine.cache.given == b"old"
    assert library.serialized_cache(made.cache) == b"kernels"
    again = library.create_context(engine, cuda_graphs=graphs, specialized=True, cache=b"x", shared="other")
    assert (again.cache, again.warm, engine.config.cache, engine.cache.given) == (
        "other",
        True,
        "other",
        b"old",
    )


@pytest.mark.parametrize(("specialized", "strategy"), [(True, "EAGER"), (False, "NONE")])
def test_no_kernels_are_compiled_in_the_background(specialized: bool, strategy: str) -> None:
    """Such threads log through Python and wait for its lock, which whoever destroys a context holds."""
    library = wrap_library("tensorrt-rtx", fake_module("1.7.1", rtx=True))
    engine = FakeEngine()
    assert not library.create_context(engine, cuda_graphs=False, specialized=specialized).warm
    assert engine.config.dynamic_shapes_kernel_specialization_strategy == strategy


def test_a_cache_that_does_not_fit_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on and compiles."""
    library = wrap_library("tensorrt-rtx", fake_module("1.7.1", rtx=True))
    caplog.set_level("INFO")
    assert not library.create_context(
        FakeEngine(fits=False), cuda_graphs=False, specialized=True, cache=b"old"
    ).warm
    assert "the runtime cache does not fit" in caplog.text


def test_a_context_without_memory_is_refused(jetpack_6: TensorRT) -> None:
    """The library gives None and the reason to its log only."""
    with pytest.raises(GmosError, match=r"TensorRT 10\.3\.0 cannot run dino: it gave no reason; free some"):
        jetpack_6.create_context(FakeEngine(context=None), cuda_graphs=False, specialized=True)


def test_the_library_s_words_are_kept(jetpack_6: TensorRT) -> None:
    """The first error as a reason, the memory figures as numbers, and nothing of the build before."""
    jetpack_6.log.start()
    for severity, message in (
        (Severity.VERBOSE, "Total Activation Memory: 1 bytes"),
        (Severity.INFO, "Total Activation Memory: 11241472 bytes"),
        (Severity.INFO, "Total Activation Memory: 12067328 bytes"),
        (Severity.INFO, "Total Weights Memory: 552844 bytes"),
        (Severity.WARNING, "odd"),
        (Severity.ERROR, "first\n reason."),
        (Severity.INTERNAL_ERROR, "second"),
    ):
        jetpack_6.logger.log(severity, message)
    assert jetpack_6.log.activation_bytes == [11241472, 12067328]
    assert jetpack_6.log.weight_bytes == 552844
    assert jetpack_6.log.reason() == "first reason"
    jetpack_6.log.start()
    assert jetpack_6.log.reason() == "it gave no reason"
    assert jetpack_6.log.activation_bytes == []


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        ("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", True),
        ("Error Code 2: OutOfMemory (Requested size was 4318035968 bytes.)", True),
        ("Error Code 7: Internal Error", False),
    ],
)
def test_memory_is_found_in_either_spelling(message: str, memory: bool, jetpack_6: TensorRT) -> None:
    """And in a later error as in the first; an engine that finds no room need not be built again."""
    jetpack_6.log.start()
    for each in ("the first", message):
        jetpack_6.logger.log(Severity.ERROR, each)
    assert jetpack_6.log.out_of_memory == memory
    broken = wrap_library("tensorrt", fake_module("10.3.0"))
    refuse = FakeRuntime.deserialize_cuda_engine

    def deserialize(runtime: Any, plan: Any) -> None:
        refuse(runtime, plan)
        runtime.logger.log(Severity.ERROR, message)

    broken.module.Runtime.deserialize_cuda_engine = deserialize
    with pytest.raises(GmosError, match="free some device memory" if memory else "build it again"):
        broken.deserialize(b"plan")


def test_the_installed_tensorrt_rtx_is_as_expected() -> None:
    """The real library: its targets, its types, the names that the code relies on."""
    pytest.importorskip("tensorrt_rtx")
    library = load_tensorrt("tensorrt-rtx")
    assert library is load_tensorrt("tensorrt-rtx")
    assert {"sm80", "sm86", "sm89", "sm120"} <= set(library.targets)
    types = library.module.DataType
    named = {
        library.dtype_name(found) for found in (types.FLOAT, types.HALF, types.BF16, types.INT64, types.UINT8)
    }
    assert named == {"float32", "float16", "bfloat16", "int64", "uint8"}
    config = library.module.IRuntimeConfig
    assert hasattr(config, "dynamic_shapes_kernel_specialization_strategy")
    assert {"EAGER", "NONE"} <= set(library.module.DynamicShapesKernelSpecializationStrategy.__members__)
    assert importlib.import_module("tensorrt_rtx").__version__ == library.full_version
