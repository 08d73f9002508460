"""The ONNX Runtime backend's own parts: devices, sessions, arrays in host memory and on a fake CUDA device."""

from __future__ import annotations

import ctypes
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.cuda.device_array import DeviceArray
from gmos_deploy.runtime.onnx.cuda_arrays import CudaDriver, OrtCudaArrays
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


class FakeCuda:
    """The CUDA driver's functions on host memory; `calls` in their order."""

    def __init__(self, status: int = 0) -> None:
        self.calls: list[str] = []
        self._status = status

    def __getattr__(self, name: str) -> Any:
        def function(*arguments: Any) -> int:
            self.calls.append(name)
            if name.startswith("cuMemcpy"):
                target, source, size = arguments
                ctypes.memmove(target, source, size.value)
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value = 123
            return self._status

        return function


class FakeOrtValue:
    """Device memory that is host memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = np.ascontiguousarray(array)

    @staticmethod
    def ortvalue_from_shape_and_type(shape: list[int], dtype: Any, device: str, index: int) -> FakeOrtValue:
        assert (device, index) == ("cuda", 1)
        return FakeOrtValue(np.zeros(shape, dtype))

    def data_ptr(self) -> int:
        return self._array.ctypes.data

    def shape(self) -> list[int]:
        return list(self._array.shape)


class FakeBinding:
    """IO binding of a session that doubles its input."""

    def __init__(self) -> None:
        self.inputs: dict[str, NDArray[Any]] = {}
        self.bound: list[tuple[str, str]] = []

    def bind_input(
        self, name: str, device: str, index: int, dtype: Any, shape: tuple[int, ...], pointer: int
    ) -> None:
        self.bound.append((name, device))
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.frombuffer(ctypes.string_at(pointer, size), dtype)
        self.inputs[name] = raw.reshape(shape)

    def bind_cpu_input(self, name: str, array: NDArray[Any]) -> None:
        self.bound.append((name, "cpu"))
        self.inputs[name] = array

    def bind_output(self, name: str, device: str, index: int) -> None:
        self.bound.append((name, device))

    def get_outputs(self) -> list[FakeOrtValue]:
        return [FakeOrtValue(self.inputs["x"] * self.inputs["factor"])]


class FakeCudaSession:
    def __init__(self) -> None:
        self.binding = FakeBinding()

    def io_binding(self) -> FakeBinding:
        return self.binding

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y", type="tensor(float16)")]

    def run_with_iobinding(self, binding: FakeBinding, run_options: Any) -> None:
        assert binding is self.binding
        assert run_options is None


@pytest.fixture
def cuda() -> OrtCudaArrays:
    """Device 1 of a machine without one."""
    return OrtCudaArrays(1, SimpleNamespace(OrtValue=FakeOrtValue), CudaDriver(1, FakeCuda()))


MEMORIES = ["host", "cuda"]


@pytest.fixture
def memory(request: pytest.FixtureRequest, cuda: OrtCudaArrays) -> OrtHostArrays | OrtCudaArrays:
    """Either memory: the pipeline cannot tell them apart."""
    return OrtHostArrays() if request.param == "host" else cuda


@pytest.mark.parametrize("memory", MEMORIES, indirect=True)
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32"])
def test_arrays_go_to_the_device_and_back(memory: Any, dtype: str) -> None:
    """Half precision comes back as float32."""
    host = np.arange(24).reshape(2, 3, 4).astype(dtype)
    array = memory.upload(host)
    back = memory.download(array)
    np.testing.assert_array_equal(back, host)
    assert back.dtype == ("float32" if dtype == "float16" else dtype)
    assert memory.nbytes(array) == host.nbytes


@pytest.mark.parametrize("memory", MEMORIES, indirect=True)
def test_stack_and_unstack_are_inverses(memory: Any) -> None:
    """And a transposed view is uploaded as it looks, not as it lies."""
    host = np.arange(24, dtype=np.float32).reshape(4, 3, 2).T
    parts = memory.unstack(memory.upload(host))
    assert len(parts) == 2
    np.testing.assert_array_equal(memory.download(parts[1]), host[1])
    np.testing.assert_array_equal(memory.download(memory.stack(parts)), host)
    assert memory.download(memory.stack(parts[:1])).shape == (1, 3, 4)


@pytest.mark.parametrize("memory", MEMORIES, indirect=True)
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_parking_keeps_every_bit(memory: Any, dtype: str) -> None:
    """A slice is parked as a slice."""
    host = np.arange(12).reshape(3, 4).astype(dtype)
    parked = memory.to_host(memory.unstack(memory.upload(host))[1])
    assert (parked.shape, parked.dtype, parked.data.nbytes) == ((4,), dtype, host[1].nbytes)
    np.testing.assert_array_equal(memory.download(memory.from_host(parked)), host[1])


@pytest.mark.parametrize("memory", MEMORIES, indirect=True)
def test_an_empty_array_can_be_restored(memory: Any) -> None:
    """An object may have no pointers yet."""
    parked = memory.to_host(memory.upload(np.zeros((2, 0, 8), np.float16)))
    assert memory.download(memory.from_host(parked)).shape == (2, 0, 8)


def test_a_parked_host_array_does_not_change_with_its_source() -> None:
    """It is a copy."""
    host = np.ones(3, np.float32)
    parked = OrtHostArrays().to_host(host)
    host[:] = 2
    np.testing.assert_array_equal(OrtHostArrays().from_host(parked), np.ones(3))


def test_bfloat16_is_read_without_a_numpy_type(cuda: OrtCudaArrays) -> None:
    """It is the upper half of a float32."""
    values = np.array([1.0, -2.5, 3.140625], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    raw = cuda.upload(upper.view(np.uint8))
    array = DeviceArray(owner=raw, pointer=raw.pointer, shape=(3,), dtype="bfloat16")
    np.testing.assert_array_equal(cuda.download(array), values)


def test_a_session_on_cuda_reads_and_writes_device_memory(cuda: OrtCudaArrays) -> None:
    """Only shape-like inputs are read on the host."""
    session = FakeCudaSession()
    x = cuda.upload(np.array([[1, 2], [3, 4]], np.float16))
    out = cuda.run(
        LoadedGraph(session=session), {"x": cuda.unstack(x)[1], "factor": np.array([2], np.float16)}
    )
    assert session.binding.bound == [("x", "cuda"), ("factor", "cpu"), ("y", "cuda")]
    assert (out["y"].shape, out["y"].dtype) == ((2,), "float16")
    np.testing.assert_array_equal(cuda.download(out["y"]), [6, 8])


def test_the_context_is_set_before_every_copy() -> None:
    """The pipeline has several threads, and CUDA's context belongs to one."""
    library = FakeCuda()
    driver = CudaDriver(0, library)
    driver.to_device(np.zeros(4, np.uint8).ctypes.data, np.zeros(4, np.uint8))
    assert library.calls[-2:] == ["cuCtxSetCurrent", "cuMemcpyHtoD_v2"]
    assert driver.free_bytes() == 123


def test_a_failing_driver_is_one_line() -> None:
    """With the function and its error number."""
    with pytest.raises(GmosError, match=r"CUDA driver: cuInit failed with error 100; check that nvidia-smi"):
        CudaDriver(0, FakeCuda(status=100))


def test_a_machine_without_the_driver_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to use instead."""
    monkeypatch.setattr("gmos_deploy.runtime.onnx.cuda_arrays.DRIVER", "libno-such-driver.so")
    with pytest.raises(GmosError, match=r"--device cuda needs the NVIDIA driver .*or use --device cpu"):
        CudaDriver(0)
