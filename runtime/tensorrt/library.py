"""TensorRT 10.3 to 11 and TensorRT-RTX behind one face: everything that differs between them is here."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, cast

from ...errors import GmosError
from ..precision import ELEMENT_TYPES
from .log import LibraryLog, library_logger

logger = logging.getLogger(__name__)

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt-rtx")

HardwareLevel = Literal["ampere-plus", "same-capability"]

MODULES: Mapping[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
NAMES: Mapping[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
VERSIONS: Mapping[Flavour, tuple[tuple[int, int], tuple[int, int]]] = {
    # 10.3 is JetPack 6's; what 12 will take away is not known.
    "tensorrt": ((10, 3), (12, 0)),
    "tensorrt-rtx": ((1, 7), (2, 0)),
}
"""The first version that works and the first that is not known to."""

INSTALL: Mapping[Flavour, str] = {
    "tensorrt": "install it with pip install 'gmos-deploy[gpu]'; on a Jetson it comes with JetPack: make the "
    "environment with python3 -m venv --system-site-packages",
    "tensorrt-rtx": "install it with pip install 'gmos-deploy[rtx]'",
}

HARDWARE_LEVELS: Mapping[HardwareLevel, str] = {
    "ampere-plus": "AMPERE_PLUS",
    "same-capability": "SAME_COMPUTE_CAPABILITY",
}

NO_FLOAT32 = ("SM75",)
"""Targets that TensorRT-RTX 1.7 computes no float32 matrix products on ("FP32 GEMM is not supported"). sam2_resize is
float32 in every bundle; it can go when `tests/export/engines/test_build.py` says that Turing builds."""

DTYPES = {element.tensorrt: name for name, element in ELEMENT_TYPES.items()}
"""The library's names of element types and the bundle's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext:
    """An execution context with the runtime cache that it fills, where the library has one.

    `warm` says whether that cache had kernels of this machine to begin with.
    """

    context: Any
    cache: Any | None
    warm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRT:
    """A loaded library. `full_version` has all of its parts, of which `version` is the first three."""

    flavour: Flavour
    full_version: str
    version: tuple[int, int, int]
    module: Any
    logger: Any
    log: LibraryLog
    runtimes: dict[bool, Any] = field(default_factory=dict, repr=False)
    """The library's runtimes by whether they allow host code; they must outlive their engines."""

    @property
    def label(self) -> str:
        """Name and version for people."""
        return f"{NAMES[self.flavour]} {self.full_version}"

    @property
    def builds_ahead(self) -> bool:
        """Whether engines are built for named targets, on a machine that need not have a GPU."""
        return self.flavour == "tensorrt-rtx"

    @property
    def own_cuda_graphs(self) -> bool:
        """Whether the library captures CUDA graphs itself, per context, and anew when an address changes."""
        return self.flavour == "tensorrt-rtx"

    @property
    def own_runtime_cache(self) -> bool:
        """Whether kernels are compiled on the device at the first run and can be kept."""
        return self.flavour == "tensorrt-rtx"

    @property
    def targets(self) -> tuple[str, ...]:
        """Compute capabilities that it can build every network for ahead of time, as `sm86`."""
        if not self.builds_ahead:
            return ()
        names = self.module.ComputeCapability.__members__
        return tuple(name.lower() for name in names if name.startswith("SM") and name not in NO_FLOAT32)

    @property
    def has_timing_cache(self) -> bool:
        """Whether tactics are timed while building: TensorRT-RTX does that at the first run."""
        return self.flavour == "tensorrt"

    @property
    def has_version_compatible(self) -> bool:
        """Whether plans can be made that later versions read; TensorRT-RTX 1.7 has the flag and fails on it."""
        return self.flavour == "tensorrt" and hasattr(self.module.BuilderFlag, "VERSION_COMPATIBLE")

    @property
    def hardware_levels(self) -> tuple[HardwareLevel, ...]:
        """The kinds of hardware compatibility; 10.3 lacks `same-capability`, TensorRT-RTX has targets instead."""
        if self.builds_ahead:
            return ()
        known = self.module.HardwareCompatibilityLevel
        return tuple(level for level, name in HARDWARE_LEVELS.items() if hasattr(known, name))

    def create_network(self, builder: Any) -> Any:  # noqa: ANN401
        """An empty strongly typed network; 10 must be told so, 11 knows no other and ignores the flag."""
        return builder.create_network(1 << int(self.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def create_config(self, builder: Any) -> Any:  # noqa: ANN401
        """A builder configuration in which float32 means float32: TF32 is on in the library's own default."""
        config = builder.create_builder_config()
        config.clear_flag(self.module.BuilderFlag.TF32)
        return config

    def set_targets(self, config: Any, targets: Sequence[str]) -> None:  # noqa: ANN401
        """Build for these compute capabilities, which are of `self.targets`."""
        config.num_compute_capabilities = len(targets)
        for i, target in enumerate(targets):
            config.set_compute_capability(getattr(self.module.ComputeCapability, target.upper()), i)

    def set_hardware_level(self, config: Any, level: HardwareLevel) -> None:  # noqa: ANN401
        """Build for more than this machine's GPU; `level` is of `self.hardware_levels`."""
        levels = self.module.HardwareCompatibilityLevel
        config.hardware_compatibility_level = getattr(levels, HARDWARE_LEVELS[level])

    def dtype_name(self, dtype: Any) -> str:  # noqa: ANN401
        """An element type of the library as the bundle names it."""
        name = str(dtype.name)
        return DTYPES.get(name, name.lower())

    def deserialize(self, plan: Any, *, host_code: bool = False) -> Any:  # noqa: ANN401
        """An engine from a plan that has been verified.

        Args:
            plan: a buffer; may be released afterwards.
            host_code: let the plan bring its own runtime, which a version-compatible one does.

        Raises:
            GmosError: the library refuses the plan.
        """
        self.log.start()
        if host_code not in self.runtimes:
            runtime = self.module.Runtime(self.logger)
            if host_code:
                runtime.engine_host_code_allowed = True
            self.runtimes[host_code] = runtime
        engine = self.runtimes[host_code].deserialize_cuda_engine(plan)
        if engine is None:
            advice = (
                "free some device memory, or raise --memory_budget"
                if self.log.out_of_memory
                else "build it again"
            )
            raise GmosError(f"{self.label} cannot load the engine: {self.log.reason()}; {advice}")
        return engine

    def create_context(
        self,
        engine: Any,  # noqa: ANN401
        *,
        cuda_graphs: bool,
        specialized: bool,
        cache: bytes | None = None,
        shared: Any | None = None,  # noqa: ANN401
    ) -> EngineContext:
        """A context whose activation memory the caller provides.

        TensorRT-RTX compiles kernels for the shapes of a call, by default in the background. Its threads log, and
        a logger in Python waits for the interpreter's lock, which whoever destroys a context holds while the
        library waits for its threads. So none compile in the background here: kernels are compiled within the
        first call at its shapes, whose binding gives the lock up (`specialized`), or never.

        Args:
            engine: from `deserialize`.
            cuda_graphs: let the library capture graphs, where it does that itself.
            specialized: compile kernels for the shapes of calls; else those for all shapes serve.
            cache: compiled kernels of an earlier run, from `serialized_cache`; one that does not fit is
                ignored, which is logged.
            shared: the runtime cache of another context of the engine, used instead of one from `cache`.

        Raises:
            GmosError: no memory is left for it.
        """
        self.log.start()
        strategy = self.module.ExecutionContextAllocationStrategy.USER_MANAGED
        kept, warm = shared, shared is not None
        if self.own_runtime_cache:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            graphs = self.module.CudaGraphStrategy
            config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if cuda_graphs else graphs.DISABLED
            kinds = self.module.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER if specialized else kinds.NONE
            if kept is None:
                kept = config.create_runtime_cache()
                warm = cache is not None and bool(kept.deserialize(cache))
                if cache is not None and not warm:
                    logger.info("the runtime cache does not fit this machine: kernels are compiled again")
            config.set_runtime_cache(kept)
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(strategy)
        if context is None:
            raise GmosError(
                f"{self.label} cannot run {engine.name or 'the engine'}: {self.log.reason()}; free some device memory"
            )
        return EngineContext(context=context, cache=kept, warm=warm)

    def serialized_cache(self, cache: Any) -> bytes:  # noqa: ANN401
        """The kernels compiled so far, to be given to `create_context` of another process."""
        return bytes(memoryview(cache.serialize()))


@cache
def load_tensorrt(flavour: Flavour) -> TensorRT:
    """The library of a flavour, loaded once per process: it takes the first logger it is given only.

    Raises:
        GmosError: it is not installed, its libraries cannot be loaded, or its version is not known to work.
    """
    try:
        module = importlib.import_module(MODULES[flavour])
    # The bindings load their shared libraries themselves: a missing one is an OSError.
    except (ImportError, OSError) as error:
        raise GmosError(
            f"--backend {flavour} needs {NAMES[flavour]} ({error}); {INSTALL[flavour]}"
        ) from error
    return wrap_library(flavour, module)


def wrap_library(flavour: Flavour, module: Any) -> TensorRT:  # noqa: ANN401
    """A library that has been imported.

    Raises:
        GmosError: its version is not known to work.
    """
    text = str(getattr(module, "__version__", "unknown"))
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    first, after = VERSIONS[flavour]
    version = tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not first <= version[:2] < after:
        raise GmosError(
            f"{NAMES[flavour]} {text} is installed, expected {first[0]}.{first[1]} or later and before "
            f"{after[0]}.{after[1]}; {INSTALL[flavour]}"
        )
    log = LibraryLog()
    return TensorRT(
        flavour=flavour,
        full_version=text,
        version=cast(tuple[int, int, int], version),
        module=module,
        logger=library_logger(module, log),
        log=log,
    )
