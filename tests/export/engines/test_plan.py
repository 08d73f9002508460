"""One engine's build on a library that is a fake: what it is asked for, and how its failures are told."""

from __future__ import annotations

import enum
import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.export.engines.options import BuildOptions
from gmos_deploy.export.engines.plan import BuiltPlan, build_plan
from gmos_deploy.export.engines.progress import BuildPhases
from gmos_deploy.runtime.bundle.manifest import Bundle, BundleNetwork
from gmos_deploy.runtime.tensorrt.library import wrap_library
from gmos_deploy.runtime.tensorrt.record import EngineTensor, ProfileRange

MIB = 1 << 20


class Severity(enum.Enum):
    ERROR = 1
    INFO = 3
    VERBOSE = 4


class FakeLogger:
    ERROR, INFO, VERBOSE = Severity.ERROR, Severity.INFO, Severity.VERBOSE


class FakeMonitor:
    """Base class of monitors, which must be initialised."""

    def __init__(self) -> None:
        self.ready = True


@dataclass
class FakeError:
    named: str = "blocks.0.attn/MatMul_3"

    def node_name(self) -> str:
        return self.named

    def node(self) -> int:
        return 17

    def node_operator(self) -> str:
        return "MatMul"

    def desc(self) -> str:
        return "Assertion failed:\n  shapes do not match."


@dataclass
class FakeLibrary:
    """A TensorRT whose builder does what a test says; it notes what it was asked for."""

    plan: bytes | None = b"plan"
    parse_error: FakeError | None = None
    silent_parse: bool = False
    during: Callable[[Any], Any] = lambda _: None
    cache_fits: bool = True
    config: Any = None
    profiles: list[dict[str, Any]] = field(default_factory=list)
    caches: list[bytes] = field(default_factory=list)
    flags: set[str] = field(default_factory=lambda: {"TF32"})

    def module(self, version: str = "10.3.0") -> Any:
        flags = SimpleNamespace(TF32="TF32", VERSION_COMPATIBLE="VERSION_COMPATIBLE")
        return SimpleNamespace(
            __version__=version,
            ILogger=FakeLogger,
            IProgressMonitor=FakeMonitor,
            Builder=self.builder,
            OnnxParser=self.parser,
            BuilderFlag=flags,
            MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
            HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="AMPERE_PLUS"),
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=0),
            LayerType=SimpleNamespace(SOFTMAX=1, MATRIX_MULTIPLY=2),
            DataType=SimpleNamespace(HALF="HALF"),
        )

    def builder(self, logger: Any) -> Any:
        def config() -> Any:
            pools: dict[str, int] = {}
            self.config = SimpleNamespace(
                pools=pools,
                builder_optimization_level=3,
                progress_monitor=None,
                clear_flag=self.flags.discard,
                set_flag=self.flags.add,
                set_memory_pool_limit=pools.__setitem__,
                add_optimization_profile=self.profiles.append,
                create_timing_cache=lambda content: self.caches.append(content) or content,
                set_timing_cache=lambda content, _: self.cache_fits or not content,
                get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"tactics"),
            )
            return self.config

        def profile() -> Any:
            put: dict[str, Any] = {}
            return _Profile(put)

        def build(definition: Any, config: Any) -> bytes | None:
            self.during(config.progress_monitor)
            logger.log(Severity.INFO, "Total Activation Memory: 4096 bytes")
            logger.log(Severity.INFO, "Total Weights Memory: 128 bytes")
            if self.plan is None:
                logger.log(Severity.ERROR, "Error Code 10: Could not find any implementation for node x.")
            return self.plan

        return SimpleNamespace(
            create_network=lambda flags: DEFINITION,
            create_builder_config=config,
            create_optimization_profile=profile,
            build_serialized_network=build,
        )

    def parser(self, definition: Any, logger: Any) -> Any:
        errors = [self.parse_error] if self.parse_error else []
        if self.silent_parse:
            logger.log(Severity.ERROR, "Failed to open file")
        return SimpleNamespace(
            parse_from_file=lambda path: not errors and not self.silent_parse,
            num_errors=len(errors),
            get_error=errors.__getitem__,
        )


class _Profile(dict[str, Any]):
    def set_shape(self, *given: Any) -> None:
        self[given[0]] = ("shape", *given[1:])

    def set_shape_input(self, *given: Any) -> None:
        self[given[0]] = ("values", *given[1:])


def tensor(name: str, dtype: str, shape: tuple[int, ...], *, host: bool = False) -> Any:
    return SimpleNamespace(name=name, dtype=SimpleNamespace(name=dtype), shape=shape, is_shape_tensor=host)


DEFINITION = SimpleNamespace(
    num_inputs=2,
    get_input=[
        tensor("masks", "HALF", (-1, 32, 32)),
        tensor("video_hw", "INT64", (2,), host=True),
    ].__getitem__,
    num_outputs=1,
    get_output=[tensor("labels", "UINT8", (-1, -1))].__getitem__,
    num_layers=0,
)

PROFILE = {
    "masks": ProfileRange(min=(1, 32, 32), opt=(4, 32, 32), max=(16, 32, 32)),
    "video_hw": ProfileRange(min=(64, 64), opt=(720, 1280), max=(2160, 4096)),
}


def built(
    fake: FakeLibrary,
    options: BuildOptions | None = None,
    profile: dict[str, ProfileRange] | None = None,
    enter: Callable[[], None] | None = None,
) -> BuiltPlan:
    bundle = SimpleNamespace(private_graph=lambda name, target: nullcontext(Path(f"{name}.{target}.onnx")))
    return build_plan(
        wrap_library("tensorrt", fake.module()),
        cast(Bundle, bundle),
        cast(BundleNetwork, SimpleNamespace(name="tracked_labels", precision="fp32")),
        profiles=[profile or PROFILE],
        options=options or BuildOptions(),
        phases=BuildPhases(lambda *_: None),
        enter=enter,
    )


def test_a_plan_comes_with_what_is_known_about_it() -> None:
    """Tensors, memory, hash; host inputs are profiled by value, others by shape."""
    fake = FakeLibrary()
    plan = built(fake)
    assert bytes(plan.data) == b"plan"
    assert plan.sha256 == hashlib.sha256(b"plan").hexdigest()
    assert plan.activation_bytes == (4096,)
    assert plan.weight_bytes == 128
    assert plan.tensors == (
        EngineTensor(name="masks", dtype="float16", shape=(-1, 32, 32), mode="input"),
        EngineTensor(name="video_hw", dtype="int64", shape=(2,), mode="input", host=True),
        EngineTensor(name="labels", dtype="uint8", shape=(-1, -1), mode="output"),
    )
    assert fake.profiles == [
        {
            "masks": ("shape", (1, 32, 32), (4, 32, 32), (16, 32, 32)),
            "video_hw": ("values", (64, 64), (720, 1280), (2160, 4096)),
        }
    ]
    assert fake.flags == set()


def test_the_gpu_is_chosen_wherever_the_builder_works() -> None:
    """Which one is a setting of each thread: before anything is made, and in the thread that builds."""
    events: list[str] = []
    fake = FakeLibrary(during=lambda _: events.append(f"built in {threading.current_thread().name}"))
    built(fake, enter=lambda: events.append(threading.current_thread().name))
    assert events == ["MainThread", "engine-build", "built in engine-build"]


def test_options_reach_the_builder(tmp_path: Path) -> None:
    """Each as the library spells it."""
    fake = FakeLibrary()
    options = BuildOptions(
        workspace_mib=512,
        opt_level=5,
        tf32=True,
        version_compatible=True,
        hardware_compatible="ampere-plus",
    )
    built(fake, options)
    assert fake.config.pools == {"WORKSPACE": 512 * MIB}
    assert fake.config.builder_optimization_level == 5
    assert fake.flags == {"TF32", "VERSION_COMPATIBLE"}
    assert fake.config.hardware_compatibility_level == "AMPERE_PLUS"


def test_a_timing_cache_is_read_and_written(tmp_path: Path) -> None:
    """Made when it is not there yet."""
    path = tmp_path / "tactics.cache"
    fake = FakeLibrary()
    built(fake, BuildOptions(timing_cache=path))
    assert fake.caches == [b""]
    assert path.read_bytes() == b"tactics"
    built(fake, BuildOptions(timing_cache=path))
    assert fake.caches == [b"", b"tactics"]


def test_a_timing_cache_of_another_machine_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is said."""
    path = tmp_path / "tactics.cache"
    path.write_bytes(b"foreign")
    fake = FakeLibrary(cache_fits=False)
    built(fake, BuildOptions(timing_cache=path))
    assert fake.caches == [b"foreign", b""]
    assert "was made on another machine or version" in caplog.text
    with pytest.raises(
        GmosError, match=r"--timing-cache .* cannot be read \(it is a directory and no regular file\)"
    ):
        built(fake, BuildOptions(timing_cache=tmp_path))


FAILURES: list[tuple[FakeLibrary, str]] = [
    (
        FakeLibrary(parse_error=FakeError()),
        r"^TensorRT 10\.3\.0 cannot parse tracked_labels: node blocks\.0\.attn/MatMul_3 \(MatMul\): Assertion failed: "
        r"shapes do not match; export the bundle again with this version of gmos-deploy and --opset 20$",
    ),
    (FakeLibrary(parse_error=FakeError(named="")), r"node number 17 \(MatMul\)"),
    (
        FakeLibrary(silent_parse=True),
        r"cannot parse tracked_labels\.standard\.onnx: Failed to open file; export the bundle again",
    ),
    (
        FakeLibrary(plan=None),
        r"^TensorRT 10\.3\.0 cannot build tracked_labels: Error Code 10: Could not find any implementation for node x; "
        r"close what else uses the device, lower --max-shapes or --workspace, or try another --opt-level$",
    ),
]


@pytest.mark.parametrize(("fake", "message"), FAILURES)
def test_failures_are_one_line(fake: FakeLibrary, message: str) -> None:
    """With the network, the node and what to do."""
    with pytest.raises(GmosError, match=message):
        built(fake)


def test_an_input_that_the_bundle_does_not_list_is_refused() -> None:
    """The graph is not the one that the bundle describes."""
    with pytest.raises(GmosError, match=r"tracked_labels has an input masks that the bundle does not list"):
        built(FakeLibrary(), profile={"video_hw": PROFILE["video_hw"]})


def test_ctrl_c_stops_the_builder_at_its_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interruption goes on when the builder has stopped, not before."""
    events: list[str] = []

    def during(monitor: Any) -> None:
        deadline = time.monotonic() + 10
        monitor.phase_start("build", None, 1_000_000)
        while monitor.step_complete("build", 0) and time.monotonic() < deadline:
            time.sleep(0.001)
        events.append("stopped")

    join = threading.Thread.join
    pressed = threading.Event()

    def press_once(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "engine-build" and not pressed.is_set():
            pressed.set()
            raise KeyboardInterrupt
        join(thread, timeout)

    monkeypatch.setattr(threading.Thread, "join", press_once)
    with pytest.raises(KeyboardInterrupt):
        built(FakeLibrary(during=during, plan=None))
    assert events == ["stopped"]


def test_an_error_within_the_build_reaches_the_caller() -> None:
    """Whatever thread it was raised in."""

    def during(monitor: Any) -> None:
        raise MemoryError("no memory")

    with pytest.raises(MemoryError, match="no memory"):
        built(FakeLibrary(during=during))
