"""The ONNX Runtime backend's own parts: devices, sessions, arrays in host memory and on a fake CUDA device."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.onnx import sessions
from gmos_deploy.runtime.onnx.backend import OnnxBackend
from gmos_deploy.runtime.onnx.sessions import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    LoadedGraph,
    OnnxDevice,
    OrtHostArrays,
    SessionOptions,
    choose_device,
    load_onnxruntime,
    open_session,
)

CPU_BUILD = [CPU_PROVIDER]
GPU_BUILD = ["TensorrtExecutionProvider", CUDA_PROVIDER, CPU_PROVIDER]


class FakeSession:
    """A session that answers on the providers it is told to."""

    def __init__(self, path: Path, settings: Any, providers: list[Any]) -> None:
        self.path, self.settings, self.asked = path, settings, providers

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.asked]


class FakeSettings:
    """Session options, remembered."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class FakeRunOptions:
    """Run options, remembered."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


def fake_runtime(providers: list[str], session: type[FakeSession] = FakeSession) -> Any:
    """An `onnxruntime` module built with those providers."""
    return SimpleNamespace(
        __version__="1.99",
        get_available_providers=lambda: providers,
        SessionOptions=FakeSettings,
        InferenceSession=session,
        preload_dlls=lambda: print("Failed to load libcudnn.so.9"),  # noqa: T201 - as the real one does
    )


def test_auto_takes_cuda_where_the_build_and_the_driver_have_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says why."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sessions, "driver_doubt", lambda: None)
    assert choose_device("auto", fake_runtime(GPU_BUILD)) == OnnxDevice(kind="cuda")
    assert choose_device("auto", fake_runtime(CPU_BUILD)) == OnnxDevice(kind="cpu")
    monkeypatch.setattr(sessions, "driver_doubt", lambda: "NVIDIA's driver is not installed")
    assert choose_device("auto", fake_runtime(GPU_BUILD)) == OnnxDevice(kind="cpu")
    assert caplog.messages == [
        "device auto: cuda:0, this ONNX Runtime has a CUDA provider",
        "device auto: cpu, this ONNX Runtime has no CUDA provider",
        "device auto: cpu, NVIDIA's driver is not installed",
    ]


def test_devices_are_chosen_by_name() -> None:
    """With their number."""
    assert choose_device("cpu", fake_runtime(GPU_BUILD)).provider == CPU_PROVIDER
    assert choose_device("cuda:2", fake_runtime(GPU_BUILD)) == OnnxDevice(kind="cuda", index=2)
    assert str(choose_device("cuda", fake_runtime(GPU_BUILD))) == "cuda:0"


@pytest.mark.parametrize(
    ("name", "providers", "loaded"),
    [
        ("cuda", GPU_BUILD, True),
        ("auto", GPU_BUILD, True),
        ("cpu", GPU_BUILD, False),
        ("auto", CPU_BUILD, False),
    ],
)
def test_cuda_libraries_of_packages_are_loaded(
    name: str,
    providers: list[str],
    loaded: bool,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The provider does not look there; what is missing is no line on stdout, where a command's JSON goes."""
    with caplog.at_level(logging.DEBUG):
        choose_device(name, fake_runtime(providers))
    assert ("onnxruntime: Failed to load libcudnn.so.9" in caplog.text) == loaded
    assert capsys.readouterr().out == ""
    assert hasattr(load_onnxruntime(), "preload_dlls")


def test_cuda_without_its_provider_is_an_error() -> None:
    """Not a slow run on the CPU."""
    with pytest.raises(
        GmosError, match=r"--device cuda:1: this ONNX Runtime \(1\.99\) has no CUDA provider, only"
    ):
        choose_device("cuda:1", fake_runtime(CPU_BUILD))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_another_device_is_refused(name: str) -> None:
    """With what there is."""
    with pytest.raises(GmosError, match="expected cpu, cuda, cuda:N or auto"):
        choose_device(name, fake_runtime(GPU_BUILD))


def test_a_session_that_fell_back_is_an_error(tmp_path: Path) -> None:
    """ONNX Runtime lists CUDA even on machines without a device, and then silently takes the CPU."""

    class FellBack(FakeSession):
        def get_providers(self) -> list[str]:
            return [CPU_PROVIDER]

    with pytest.raises(GmosError, match=r"could not use cuda:0 for m\.onnx and took CPUExecutionProvider"):
        open_session(
            tmp_path / "m.onnx",
            OnnxDevice(kind="cuda"),
            SessionOptions(),
            fake_runtime(GPU_BUILD, FellBack),
        )


def test_a_session_gets_threads_memory_and_full_float32(tmp_path: Path) -> None:
    """TF32 is off: it would round an fp32 bundle's products."""
    options = SessionOptions(threads=3, prepack=False)
    graph = open_session(tmp_path / "m", OnnxDevice(kind="cuda", index=1), options, fake_runtime(GPU_BUILD))
    session = graph.session
    assert session.settings.intra_op_num_threads == 3
    assert session.settings.entries == {
        "session.disable_prepacking": "1",
        "session.intra_op.allow_spinning": "0",
        "session.load_model_format": "ONNX",
        "session.x64quantprecision": "1",
    }
    wanted = {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert session.asked[0] == (CUDA_PROVIDER, wanted)


def test_fp8_layers_are_not_taken_for_whole_numbers(tmp_path: Path) -> None:
    """ONNX Runtime before 1.32 does, and refuses the graph that it has made."""
    key = "session.disable_quant_qdq"
    for precision, wanted in (("fp8", "1"), ("int8", None), ("fp16", None)):
        graph = open_session(
            tmp_path / "m",
            OnnxDevice(kind="cpu"),
            SessionOptions(),
            fake_runtime(CPU_BUILD),
            precision=precision,
        )
        assert graph.session.settings.entries.get(key) == wanted


def test_products_of_int8_layers_may_use_tf32(tmp_path: Path) -> None:
    """On a GPU they are in float32 in ONNX Runtime's form; their factors have eight bits."""
    graph = open_session(
        tmp_path / "m", OnnxDevice(kind="cuda"), SessionOptions(), fake_runtime(GPU_BUILD), precision="int8"
    )
    assert graph.session.asked[0][1]["use_tf32"] == "1"


@pytest.mark.parametrize(
    ("device", "flops", "arena"),
    [
        (OnnxDevice(kind="cpu"), 1e9, None),
        (OnnxDevice(kind="cpu"), 2e11, "cpu:0"),
        (OnnxDevice(kind="cuda", index=1), 2e11, None),
        (OnnxDevice(kind="cuda", index=1), 2e12, "gpu:1"),
    ],
)
def test_only_large_networks_give_their_memory_back(
    tmp_path: Path, device: OnnxDevice, flops: float, arena: str | None
) -> None:
    """For small ones taking it again would cost more than running; on CUDA too, each session has its own."""
    runtime = fake_runtime(GPU_BUILD)
    runtime.RunOptions = FakeRunOptions
    options = open_session(tmp_path / "m", device, SessionOptions(), runtime, flops=flops).run_options
    entries = None if options is None else options.entries
    assert entries == (None if arena is None else {"memory.enable_memory_arena_shrinkage": arena})


@pytest.mark.parametrize("device", [OnnxDevice(kind="cpu"), OnnxDevice(kind="cuda")])
def test_a_bfloat16_bundle_is_refused_on_every_device(device: OnnxDevice) -> None:
    """With what runs it; a head in bfloat16 is enough."""
    networks = {
        name: SimpleNamespace(name=name, precision=precision)
        for name, precision in (("dino", "fp16"), ("proposer", "bf16"))
    }
    bundle: Any = SimpleNamespace(networks=networks, precision="fp16", root=Path("gmos-bundle"))
    with pytest.raises(
        GmosError,
        match=r"^bundle gmos-bundle is bf16 \(proposer\), which .* no device; use its engines \(--backend",
    ):
        OnnxBackend(bundle, device, SessionOptions(), fake_runtime(GPU_BUILD))


def test_why_onnx_runtime_runs_no_bfloat16_bundle() -> None:
    """At the opset of bundles such a convolution is no valid ONNX; at 22 the CPU provider has no kernel."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    make, kind = onnx.helper, onnx.TensorProto.BFLOAT16
    for opset, reason in (
        (20, "Type Error.*bfloat16.*Conv"),
        (22, "Could not find an implementation for Conv"),
    ):
        graph = make.make_graph(
            [make.make_node("Conv", ["x", "w"], ["y"])],
            "conv",
            [make.make_tensor_value_info("x", kind, [1, 1, 4, 4])],
            [make.make_tensor_value_info("y", kind, None)],
            [make.make_tensor("w", kind, [1, 1, 1, 1], [1.0])],
        )
        model = make.make_model(graph, opset_imports=[make.make_opsetid("", opset)], ir_version=10)
        with pytest.raises(Exception, match=reason):
            onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU_PROVIDER])
    for operator in ("Conv", "ConvTranspose", "Cos"):
        types = [onnx.defs.get_schema(operator, opset).type_constraints for opset in (20, 22)]
        has = [any("tensor(bfloat16)" in each.allowed_type_strs for each in found) for found in types]
        assert has == [False, True], operator


@pytest.mark.parametrize(
    ("words", "memory"),
    [
        ("BFCArena: Failed to allocate memory for requested buffer of size 100", True),
        ("CUDA failure 2: out of memory ; GPU=0", True),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", True),
        ("Non-zero status code returned while running Conv", False),
    ],
)
def test_what_has_no_memory_is_said_with_what_to_lower(words: str, memory: bool) -> None:
    """Whichever library says it; other errors are told with their words."""

    class Arrays(OrtHostArrays):
        def run(self, graph: LoadedGraph, inputs: Any) -> dict[str, Any]:
            raise RuntimeError(words)

    bundle: Any = SimpleNamespace(
        networks={},
        precision="fp32",
        root=Path("b"),
        model=SimpleNamespace(approximations=""),
        table_source=dict,
    )
    backend = OnnxBackend(bundle, OnnxDevice(kind="cpu"), SessionOptions(), fake_runtime(CPU_BUILD))
    backend.arrays = Arrays()
    entry: Any = SimpleNamespace(
        name="dino", inputs=(), graphs={"onnxruntime": SimpleNamespace(tables=())}, outputs=()
    )
    with pytest.raises(
        GmosError,
        match="cpu is out of memory in dino .*--batch_size"
        if memory
        else rf"cannot run dino of b \({words}\)",
    ):
        backend._run(entry, LoadedGraph(session=None), {})


def test_a_graph_that_the_runtime_refuses_is_one_line(tmp_path: Path) -> None:
    """With its reason and what to do."""

    class Refuses(FakeSession):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("opset 99\nis unknown")

    with pytest.raises(GmosError, match=r"cannot load .*m\.onnx \(opset 99 is unknown\); export the bundle"):
        open_session(
            tmp_path / "m.onnx", OnnxDevice(kind="cpu"), SessionOptions(), fake_runtime(CPU_BUILD, Refuses)
        )


def test_negative_threads_are_refused() -> None:
    """0 is one per core."""
    with pytest.raises(GmosError, match=r"--threads -1: expected 0"):
        SessionOptions(threads=-1)


def test_a_missing_onnx_runtime_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle run needs nothing else."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(GmosError, match=r"needs ONNX Runtime .*pip install 'gmos-deploy\[cpu\]'"):
        load_onnxruntime()
