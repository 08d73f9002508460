"""The ONNX Runtime backend's own parts: devices, sessions, arrays in host memory and on a fake CUDA device."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.onnx.sessions import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    LoadedGraph,
    OnnxDevice,
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
    )


def test_auto_takes_cuda_where_the_build_has_it(caplog: pytest.LogCaptureFixture) -> None:
    """And says why."""
    with caplog.at_level(logging.INFO):
        assert choose_device("auto", fake_runtime(GPU_BUILD)) == OnnxDevice(kind="cuda")
        assert choose_device("auto", fake_runtime(CPU_BUILD)) == OnnxDevice(kind="cpu")
    assert "device auto: cuda:0, this ONNX Runtime has a CUDA provider" in caplog.text
    assert "device auto: cpu, this ONNX Runtime has no CUDA provider" in caplog.text


def test_devices_are_chosen_by_name() -> None:
    """With their number."""
    assert choose_device("cpu", fake_runtime(GPU_BUILD)).provider == CPU_PROVIDER
    assert choose_device("cuda:2", fake_runtime(GPU_BUILD)) == OnnxDevice(kind="cuda", index=2)
    assert str(choose_device("cuda", fake_runtime(GPU_BUILD))) == "cuda:0"


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
        "session.x64quantprecision": "1",
    }
    assert session.asked[0] == (CUDA_PROVIDER, {"device_id": "1", "use_tf32": "0"})


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
    assert graph.session.asked[0] == (CUDA_PROVIDER, {"device_id": "0", "use_tf32": "1"})


def test_only_large_networks_give_their_memory_back(tmp_path: Path) -> None:
    """For small ones taking it again would cost more than running."""
    runtime = fake_runtime(CPU_BUILD)
    runtime.RunOptions = FakeRunOptions

    def load(flops: float) -> LoadedGraph:
        return open_session(tmp_path / "m", OnnxDevice(kind="cpu"), SessionOptions(), runtime, flops=flops)

    assert load(1e9).run_options is None
    assert load(2e12).run_options.entries == {"memory.enable_memory_arena_shrinkage": "cpu:0"}


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
