"""One engine: an ONNX graph in, a serialised plan out."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ...runtime.bundle.manifest import Bundle, BundleNetwork
from ...runtime.files.atomic_file import replaced_at_end
from ...runtime.files.regular_file import read_bounded
from ...runtime.precision import PRECISIONS
from ...runtime.tensorrt.library import TensorRT
from ...runtime.tensorrt.record import EngineTensor, Profile
from .attention import AttentionReport, attention_report, half_attention_heads
from .options import BuildOptions
from .progress import BuildPhases, progress_monitor
from .sums import least_pinned, pin_sums

logger = logging.getLogger(__name__)

MIB = 1 << 20

MOST_CACHE_BYTES = 1 << 30
"""Of a timing cache; ours have a few MB."""

JOIN_S = 0.2
"""How long a signal may go unnoticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPlan:
    """A plan in memory; `data` is the library's own buffer. Fields as in `EngineRecord`."""

    data: memoryview
    tensors: tuple[EngineTensor, ...]
    activation_bytes: tuple[int, ...]
    weight_bytes: int
    attention: AttentionReport
    seconds: float

    @property
    def sha256(self) -> str:
        """Of the plan, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def build_plan(
    library: TensorRT,
    bundle: Bundle,
    network: BundleNetwork,
    *,
    profiles: Sequence[Profile],
    options: BuildOptions,
    phases: BuildPhases,
    enter: Callable[[], None] | None = None,
) -> BuiltPlan:
    """Parse a network's standard graph and build it; an interruption stops the builder first.

    `enter` makes the GPU that the builder works on the one of the calling thread; None where it needs none.

    Raises:
        GmosError: the graph has changed since its export, or the library cannot parse or build it.
    """
    start = time.monotonic()
    enter = enter or (lambda: None)
    enter()
    library.log.start()
    builder = library.module.Builder(library.logger)
    # What is built gets this user's seal: of a copy that nobody else can change while it is parsed.
    with bundle.private_graph(network.name, "standard") as graph:
        definition = _parsed(library, builder, graph, network.name)
    if PRECISIONS[network.precision].dtype == "float16" and not options.half_sums:
        pinned = pin_sums(library, definition, least_pinned(network.name))
        logger.debug("%s: %d products sum in float32", network.name, pinned)
    config = library.create_config(builder)
    _configure(library, config, options)
    inputs = [definition.get_input(i) for i in range(definition.num_inputs)]
    for profile in profiles:
        config.add_optimization_profile(_optimization_profile(builder, inputs, profile, network.name))
    cache = _timing_cache(config, options.timing_cache)
    config.progress_monitor = monitor = progress_monitor(library.module, phases)

    def build() -> Any:  # noqa: ANN401 - the library's
        enter()
        return builder.build_serialized_network(definition, config)

    plan = _interruptible(build, phases)
    del monitor
    if plan is None:
        raise GmosError(
            f"{library.label} cannot build {network.name}: {library.log.reason()}; close what else uses the device, "
            "lower --max-shapes or --workspace, or try another --opt-level"
        )
    if cache is not None and options.timing_cache is not None:
        with replaced_at_end(options.timing_cache) as temporary:
            temporary.write_bytes(memoryview(config.get_timing_cache().serialize()))
    data = memoryview(plan)
    return BuiltPlan(
        data=data,
        tensors=_tensors(library, definition, inputs),
        activation_bytes=_per_profile(library.log.activation_bytes, len(profiles)),
        weight_bytes=library.log.weight_bytes,
        attention=attention_report(
            data,
            heads=half_attention_heads(library, definition),
            copies=len(profiles),
            named=library.builds_ahead,
        ),
        seconds=time.monotonic() - start,
    )


def _parsed(library: TensorRT, builder: Any, graph: Path, name: str) -> Any:  # noqa: ANN401
    definition = library.create_network(builder)
    parser = library.module.OnnxParser(definition, library.logger)
    if parser.parse_from_file(str(graph)):
        return definition
    if not parser.num_errors:
        raise GmosError(
            f"{library.label} cannot parse {graph}: {library.log.reason()}; export the bundle again"
        )
    error = parser.get_error(0)
    node = error.node_name() or f"number {error.node()}"
    reason = " ".join(error.desc().split()).rstrip(".")
    raise GmosError(
        f"{library.label} cannot parse {name}: node {node} ({error.node_operator() or 'unknown operator'}): {reason}; "
        "export the bundle again with this version of gmos-deploy and --opset 20"
    )


def _configure(library: TensorRT, config: Any, options: BuildOptions) -> None:  # noqa: ANN401
    module = library.module
    if options.targets:
        library.set_targets(config, options.targets)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.tf32:
        config.set_flag(module.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible is not None:
        library.set_hardware_level(config, options.hardware_compatible)


def _optimization_profile(
    builder: Any,  # noqa: ANN401
    inputs: Sequence[Any],
    profile: Profile,
    name: str,
) -> Any:  # noqa: ANN401
    made = builder.create_optimization_profile()
    for tensor in inputs:
        ranges = profile.get(tensor.name)
        if ranges is None:
            raise GmosError(
                f"{name} has an input {tensor.name} that the bundle does not list; export it again"
            )
        # The host reads such an input before the network starts: its values are what varies.
        put = made.set_shape_input if tensor.is_shape_tensor else made.set_shape
        put(tensor.name, ranges.min, ranges.opt, ranges.max)
    return made


def _timing_cache(config: Any, path: Path | None) -> Any | None:  # noqa: ANN401
    if path is None:
        return None
    try:
        content = read_bounded(path, MOST_CACHE_BYTES)
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise GmosError(
            f"--timing-cache {path} cannot be read ({error.strerror}); give another file"
        ) from error
    cache = config.create_timing_cache(content)
    if not config.set_timing_cache(cache, False):
        logger.warning("%s was made on another machine or version: tactics are timed anew", path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _interruptible(build: Any, phases: BuildPhases) -> Any:  # noqa: ANN401
    """Build in a thread: only then does a signal arrive while the library computes."""
    results: list[Any] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(build())
        # Whatever it is, it belongs to the caller's thread.
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    worker = threading.Thread(target=run, name="engine-build", daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(JOIN_S)
    # `KeyboardInterrupt`, or what a command makes of a signal.
    except BaseException:
        phases.cancel()
        logger.info("stopping at the builder's next step; Ctrl-C again to leave at once")
        worker.join()
        raise
    if failures:
        raise failures[0]
    return results[0]


def _tensors(library: TensorRT, definition: Any, inputs: Sequence[Any]) -> tuple[EngineTensor, ...]:  # noqa: ANN401
    outputs = [definition.get_output(i) for i in range(definition.num_outputs)]

    def entry(tensor: Any, mode: Any) -> EngineTensor:  # noqa: ANN401
        return EngineTensor(
            name=tensor.name,
            dtype=library.dtype_name(tensor.dtype),
            shape=tuple(int(length) for length in tensor.shape),
            mode=mode,
            host=mode == "input" and bool(tensor.is_shape_tensor),
        )

    return (*(entry(tensor, "input") for tensor in inputs), *(entry(tensor, "output") for tensor in outputs))


def _per_profile(logged: Sequence[int], profiles: int) -> tuple[int, ...]:
    """The builder logs once per profile; zeros if another version says it in other words."""
    return tuple(logged) if len(logged) == profiles else (0,) * profiles
