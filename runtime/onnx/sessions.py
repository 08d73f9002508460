"""ONNX Runtime sessions on the provider that was asked for, and on no other."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..arrays import Array, Arrays, NumpyArrays
from ..bundle.manifest import BundleTensor, GraphContent
from ..bundle.private_read import private_folder
from ..cuda.driver import driver_doubt
from ..device_name import parse_device
from ..precision import PRECISIONS
from .telemetry import turn_telemetry_off

logger = logging.getLogger(__name__)

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"

INSTALL_CPU = "pip install 'gmos-deploy[cpu]'"
INSTALL_GPU = "pip install 'gmos-deploy[gpu]'"

RELEASE_FLOPS = {"cpu": 1e11, "cuda": 1e12}
"""From this size on a call gives its working memory back at its end, by kind of device.

Each session keeps its own, and the published networks take turns: memory attention would hold 1.4 GB. Taking
it again costs nothing there on a CPU (133 s both ways), but half of the time of a network that runs for a fifth
of a second. On CUDA it is a handful of allocations of about a millisecond, as the arena grows by doubling, in
calls that take tens of them (an estimate: nothing has run there yet).
"""

ERRORS_ONLY, SILENT = 3, 4
"""ONNX Runtime's log levels; its warnings are about its own choices."""

FLOOR = (1, 21)
"""The first version that adds label maps, as the package's extras have it."""

REASON_LENGTH = 600
"""Characters of ONNX Runtime's own message that are passed on; it comes after the path and a code."""

IN_MEMORY, GRAPH = "add_external_initializers_from_files_in_memory", "graph.onnx"
"""How `onnxruntime.SessionOptions` take weights from memory, and what a graph is called in a folder of its own."""

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Where ONNX Runtime finds the weights of a model that it gets as bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedGraph:
    """An `onnxruntime.InferenceSession` and the `RunOptions` of its calls; the package has no types."""

    session: Any
    run_options: Any | None = None


class SessionArrays(Arrays, Protocol):
    """Arrays that sessions read and write where they are."""

    def run(self, graph: LoadedGraph, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a graph. Inputs are arrays of this kind, or NumPy's."""
        ...

    def close(self) -> None:
        """Give their memory back."""
        ...


class OrtHostArrays(NumpyArrays):
    """NumPy's arrays, which sessions on a CPU read where they are."""

    def run(self, graph: LoadedGraph, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run a graph. Outputs are new arrays."""
        names = [output.name for output in graph.session.get_outputs()]
        feeds = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        return dict(zip(names, graph.session.run(names, feeds, graph.run_options), strict=True))

    def close(self) -> None:
        """Python does that."""


def load_onnxruntime() -> Any:  # noqa: ANN401 - the package has no types
    """The `onnxruntime` module, with its telemetry off.

    Raises:
        GmosError: it is not installed.
    """
    turn_telemetry_off()
    try:
        import onnxruntime  # noqa: PLC0415 - an extra; it takes a quarter of a second to import
    except ImportError as error:
        raise GmosError(
            f"a bundle needs ONNX Runtime ({error}); install it with {INSTALL_CPU}, or {INSTALL_GPU} for CUDA"
        ) from error
    return onnxruntime


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxDevice:
    """`kind` cpu or cuda; `index` among the CUDA devices."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"

    @property
    def provider(self) -> str:
        """ONNX Runtime's name for it."""
        return CUDA_PROVIDER if self.kind == "cuda" else CPU_PROVIDER


def choose_device(name: str, onnxruntime: Any) -> OnnxDevice:  # noqa: ANN401 - untyped module
    """The device of that name: cpu, cuda, cuda:N, or auto, which takes CUDA where ONNX Runtime and a driver offer it.

    Raises:
        GmosError: there is no such device, or this ONNX Runtime is not built for it.
    """
    offered, (kind, index) = onnxruntime.get_available_providers(), parse_device(name)
    if tuple(int(number) for number in re.findall(r"\d+", onnxruntime.__version__)[:2]) < FLOOR:
        logger.warning(
            "ONNX Runtime %s is older than %s, which bundles need: graphs may be refused; %s",
            *(onnxruntime.__version__, ".".join(map(str, FLOOR)), INSTALL_CPU),
        )
    if kind != "cpu" and CUDA_PROVIDER in offered:
        _load_cuda_libraries(onnxruntime)
    if kind == "auto":
        doubt = driver_doubt() if CUDA_PROVIDER in offered else "this ONNX Runtime has no CUDA provider"
        chosen = OnnxDevice(kind="cpu" if doubt else "cuda")
        logger.info("device auto: %s, %s", chosen, doubt or "this ONNX Runtime has a CUDA provider")
        return chosen
    if kind == "cpu":
        return OnnxDevice(kind="cpu")
    if CUDA_PROVIDER not in offered:
        raise GmosError(
            f"--device {name}: this ONNX Runtime ({onnxruntime.__version__}) has no CUDA provider, only "
            f"{', '.join(offered)}; install {INSTALL_GPU} in its place, or use --device cpu"
        )
    return OnnxDevice(kind="cuda", index=index)


def _load_cuda_libraries(onnxruntime: Any) -> None:  # noqa: ANN401 - untyped module
    """Load CUDA and cuDNN of the packages of `onnxruntime-gpu[cuda,cudnn]`: the provider finds the system's only."""
    said = io.StringIO()
    # What it misses it prints, and stdout may be somebody's JSON.
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()
    for line in said.getvalue().splitlines():
        logger.debug("onnxruntime: %s", line)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How sessions use the machine.

    `threads` of the CPU, 0 for one per physical core. `prepack` copies weights into the order that the
    products read them in: about a tenth faster, for their size again in memory. `spin` lets the threads of
    a session that has nothing to do burn their core for a while: the networks take turns, so they take
    it from the next one. With it a run was half as fast, and on a busy machine slower still
    (docs/performance.md). `trace` is how the path begins of the profile that a session writes; None: no profile.
    """

    threads: int = 0
    prepack: bool = True
    spin: bool = False
    trace: Path | None = None

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise GmosError(f"--threads {self.threads}: expected 0 (one per core) or more")


def open_session(
    graph: Path | bytes | GraphContent,
    device: OnnxDevice,
    options: SessionOptions,
    onnxruntime: Any,  # noqa: ANN401 - untyped
    *,
    flops: float = 0.0,
    precision: str = "fp32",
    folder: Path | None = None,
) -> LoadedGraph:
    """Load a graph of some precision whose calls take about `flops` operations.

    The weights of a graph of bytes lie in `folder`, those of a `GraphContent` are in memory: no file is read again.

    Raises:
        GmosError: ONNX Runtime refuses the file, or does not run it on the device asked for.
    """
    settings = onnxruntime.SessionOptions()
    # What is wrong with a graph is in the exception; why CUDA does not start is in the log alone.
    settings.log_severity_level = SILENT if device.kind == "cpu" else ERRORS_ONLY
    settings.intra_op_num_threads = options.threads
    # Otherwise bytes may choose another format than the one whose files were looked at.
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spin else "0")
    configure_quantised(settings, fp8=PRECISIONS[precision].quantised_to_float)
    if not options.prepack:
        settings.add_session_config_entry("session.disable_prepacking", "1")
    if options.trace is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(options.trace)
    if folder is not None:
        settings.add_session_config_entry(WEIGHTS_FOLDER, str(folder))
    where = graph.path if isinstance(graph, GraphContent) else graph
    where = where if isinstance(where, Path) else Path("a changed graph")
    providers = [(device.provider, _provider_options(device, precision))]
    if device.kind != "cpu":
        # Shape arithmetic runs on the host whatever the device.
        providers.append((CPU_PROVIDER, {}))
    try:
        with _given(graph, settings) as source:
            session = onnxruntime.InferenceSession(source, settings, providers=providers)
    except GmosError:
        raise
    # The extension module's exceptions have no common base but this.
    except Exception as error:
        reason = " ".join(str(error).replace(str(where), where.name).split())
        raise GmosError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {where} ({reason:.{REASON_LENGTH}}); export the "
            "bundle with this version, or update ONNX Runtime"
        ) from error
    if session.get_providers()[0] != device.provider:
        raise GmosError(
            f"ONNX Runtime could not use {device} for {where.name} and took {session.get_providers()[0]}: check "
            "that nvidia-smi lists the device and that CUDA and cuDNN fit this onnxruntime-gpu (pip install "
            "'onnxruntime-gpu[cuda,cudnn]' brings them), or use --device cpu"
        )
    return LoadedGraph(session=session, run_options=_run_options(device, flops, onnxruntime))


@contextlib.contextmanager
def _given(graph: Path | bytes | GraphContent, settings: Any) -> Iterator[Path | bytes]:  # noqa: ANN401 - untyped
    """What a session is made of, until it is. `settings` are an `onnxruntime.SessionOptions`."""
    if not isinstance(graph, GraphContent):
        yield graph
    elif not graph.weights:
        yield graph.graph
    elif hasattr(settings, IN_MEMORY):
        files = {name: content for name, content in graph.weights.items() if content}
        sizes = [len(content) for content in files.values()]
        getattr(settings, IN_MEMORY)(list(files), list(files.values()), sizes)
        yield graph.graph
    else:
        # ONNX Runtime before 1.24, the last for Python 3.10: it reads weights from files only.
        with private_folder({GRAPH: graph.graph, **graph.weights}) as folder:
            yield folder / GRAPH


def _dtype(kind: str) -> str:
    """The element type in ONNX Runtime's name of a type, as `tensor(float)`."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return "float32" if name == "float" else name


def check_signature(
    graph: LoadedGraph, inputs: Sequence[BundleTensor], outputs: Sequence[BundleTensor], where: Path
) -> None:
    """Hold the inputs and outputs that a graph has against those that its bundle says it has.

    Raises:
        GmosError: names, types or fixed lengths differ.
    """
    for kind, wanted, found in (
        ("input", inputs, graph.session.get_inputs()),
        ("output", outputs, graph.session.get_outputs()),
    ):
        has = {one.name: (_dtype(one.type), one.shape) for one in found}
        for tensor in wanted:
            dtype, shape = has.pop(tensor.name, ("none", ()))
            fits = len(shape) == len(tensor.axes) and all(
                not isinstance(length, int) or not isinstance(axis, int) or length == axis
                for length, axis in zip(shape, tensor.axes, strict=True)
            )
            if dtype != tensor.dtype or not fits:
                raise GmosError(
                    f"{where} has as {kind} {tensor.name} {dtype} {list(shape)}, expected {tensor.dtype} "
                    f"{list(tensor.axes)}; do not trust it, export the bundle again"
                )
        if has:
            raise GmosError(
                f"{where} has the {kind} {next(iter(has))}, which its bundle does not know; do not trust it, export "
                "the bundle again"
            )


def configure_quantised(settings: Any, *, fp8: bool) -> None:  # noqa: ANN401 - untyped
    """Have quantised layers computed as the graph says. `settings` are an `onnxruntime.SessionOptions`.

    Two keys of ONNX Runtime's onnxruntime_session_options_config_keys.h. Its kernels for int8 on an x86-64 CPU without
    VNNI add their products in sixteen bits, which saturate, unless it is asked for precision. Before 1.32 it puts
    kernels for whole numbers in the place of fp8 layers, and then refuses them.
    """
    settings.add_session_config_entry("session.x64quantprecision", "1")
    if fp8:
        settings.add_session_config_entry("session.disable_quant_qdq", "1")


def _run_options(device: OnnxDevice, flops: float, onnxruntime: Any) -> Any | None:  # noqa: ANN401 - untyped
    if flops < RELEASE_FLOPS[device.kind]:
        return None
    options = onnxruntime.RunOptions()
    # "cpu" and "gpu" are the words that onnxruntime_run_options_config_keys.h knows.
    arena = "cpu:0" if device.kind == "cpu" else f"gpu:{device.index}"
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
    return options


def _provider_options(device: OnnxDevice, precision: str) -> Mapping[str, str]:
    if device.kind == "cpu":
        return {}
    # TF32 would round the factors of an fp32 bundle to eleven bits. In an int8 bundle they have eight.
    whole = PRECISIONS[precision].quantised and not PRECISIONS[precision].quantised_to_float
    return {
        "device_id": str(device.index),
        "use_tf32": "1" if whole else "0",
        # The default tries every algorithm of every convolution at every new shape, the last batch's too.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
