"""The wrapper of the CUDA bindings, the pool of device memory and what errors become."""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.cuda import driver as cuda_driver
from gmos_deploy.runtime.cuda.driver import Cuda, OutOfDeviceMemoryError, load_cuda
from gmos_deploy.runtime.cuda.pool import DevicePool, rounded_size
from gmos_deploy.runtime.tensorrt import gpu as cuda_device
from gmos_deploy.runtime.tensorrt.device import EngineDevice
from gmos_deploy.runtime.tensorrt.gpu import find_device

MIB = 1 << 20


def test_a_device_knows_its_name_and_capability(cuda: Cuda) -> None:
    """As engine records name them."""
    assert (cuda.name, cuda.compute_capability, cuda.is_integrated) == ("Fake GPU", (8, 7), False)
    assert str(cuda) == "cuda:0 (Fake GPU)"


@pytest.mark.parametrize("status", [3, 100, 101, 999])
def test_a_machine_without_a_usable_device_is_told_what_to_do(fake_cuda: Any, status: int) -> None:
    """No driver, one that does not work, or no such device."""
    fake_cuda.failures["cudaSetDevice"] = status
    with pytest.raises(
        GmosError,
        match=rf"no usable CUDA device 2 \(CUDA error {status}, .*nvidia-smi.*--backend onnxruntime",
    ):
        Cuda(2, fake_cuda)


def test_bindings_of_a_newer_cuda_than_the_driver_are_named(fake_cuda: Any) -> None:
    """JetPack 6 has CUDA 12, and pip takes the bindings of 13: by the backend, and where a GPU is looked for."""
    message = r"no usable CUDA device 0 \(CUDA error 35, some reason\): .*pip install 'cuda-bindings<13'"
    fake_cuda.failures["cudaSetDevice"] = 35
    with pytest.raises(GmosError, match=message):
        Cuda(0, fake_cuda)
    fake_cuda.failures["cudaGetDeviceCount"] = 35
    with pytest.raises(GmosError, match=message):
        find_device(0, fake_cuda)


def test_errors_of_other_libraries_work_are_found(cuda: Cuda, fake_cuda: Any) -> None:
    """They have CUDA runtimes of their own, whose last error this one does not know; a stream tells."""
    stream = cuda.new_stream()
    cuda.check(stream)
    fake_cuda.streams[int(stream)].ops.append(lambda: True)
    cuda.check(stream)
    fake_cuda.sticky = 700
    with pytest.raises(GmosError, match=r"failed in the work given to it \(CUDA error 700"):
        cuda.check(stream)
    assert cuda.is_lost
    fake_cuda.sticky = 0
    fake_cuda.failures["cudaGetLastError"] = 2
    with pytest.raises(OutOfDeviceMemoryError, match="has no room left; lower"):
        cuda.check(stream)


def test_two_devices_in_a_thread_do_not_take_each_other_s_memory(fake_cuda: Any) -> None:
    """Each call goes to the device of its `Cuda`, whichever was used last; calls in a row set nothing."""
    first, second = Cuda(0, fake_cuda), Cuda(1, fake_cuda)
    fake_cuda.entered.clear()
    for cuda in (first, first, second, second, first):
        cuda.allocate(512)
    assert [index for _, index in fake_cuda.entered] == [0, 1, 0]


def test_other_failures_are_faults_of_the_program(cuda: Cuda, fake_cuda: Any) -> None:
    """Such as an invalid value: a user cannot do anything about it."""
    fake_cuda.failures["cudaStreamCreateWithFlags"] = 1
    with pytest.raises(RuntimeError, match=r"cudaStreamCreateWithFlags failed \(CUDA error 1, some reason\)"):
        cuda.new_stream()
    assert not cuda.is_lost


def test_memory_that_caches_files_is_free_on_a_jetson(
    fake_cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host and device share it there; reading the engines fills the cache, which gives way."""
    fake_cuda.memory, fake_cuda.outside = 100 * MIB, 90 * MIB
    assert Cuda(0, fake_cuda).memory_info() == (10 * MIB, 100 * MIB)
    fake_cuda.integrated = True
    monkeypatch.setattr(cuda_driver, "free_host_bytes", lambda: 60 * MIB)
    assert Cuda(0, fake_cuda).memory_info() == (60 * MIB, 100 * MIB)
    monkeypatch.setattr(cuda_driver, "free_host_bytes", lambda: 600 * MIB)
    assert Cuda(0, fake_cuda).memory_info()[0] == 100 * MIB


def test_missing_bindings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs them."""
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(GmosError, match=r"CUDA needs NVIDIA's Python bindings .*pip install cuda-bindings"):
        load_cuda()


def test_the_real_bindings_have_what_is_called() -> None:
    """Every function and constant, and their numbers."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    text = "".join(Path(module.__file__).read_text() for module in (cuda_device, cuda_driver))
    words = set(re.findall(r"\bcuda[A-Z]\w*", text))
    assert len(words) > 30
    scopes = (runtime, runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode)
    missing = {word for word in words if not any(hasattr(scope, word) for scope in scopes)}
    assert not missing
    assert int(runtime.cudaError_t.cudaErrorMemoryAllocation) == 2
    assert int(runtime.cudaError_t.cudaErrorNotReady) == 600
    assert int(runtime.cudaError_t.cudaErrorNoDevice) == cuda_driver.NO_DEVICE
    assert int(runtime.cudaError_t.cudaErrorInsufficientDriver) == cuda_driver.OLD_DRIVER


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_rtx"])
def test_the_real_libraries_have_what_is_called(module: str) -> None:
    """Every method of a context; what differs between versions is in `library.py`."""
    library = pytest.importorskip(module, exc_type=ImportError)
    text = (Path(cuda_device.__file__).parent / "context.py").read_text()
    names = set(re.findall(r"self\._context\.(\w+)\(", text))
    assert len(names) == 8
    assert not {name for name in names if not hasattr(library.IExecutionContext, name)}


def test_a_machine_without_a_gpu_has_no_device(fake_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, and no error, unless there is a driver and the bindings are missing."""
    found = find_device(0, fake_cuda)
    assert found is not None
    assert str(found) == "Fake GPU (sm87)"
    assert find_device(1, fake_cuda) is None
    none = SimpleNamespace(cudaGetDeviceCount=lambda: (100, None))
    assert find_device(0, none) is None
    fake_cuda.failures["cudaGetDeviceProperties"] = 999
    with pytest.raises(GmosError, match=r"no usable CUDA device 0 \(CUDA error 999, .*nvidia-smi"):
        find_device(0, fake_cuda)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    for module in (cuda_device, cuda_driver):
        monkeypatch.setattr(module, "has_driver", lambda: False)
    assert find_device() is None
    with pytest.raises(GmosError, match="NVIDIA's driver is not installed"):
        Cuda(0)
    monkeypatch.setattr(cuda_device, "has_driver", lambda: True)
    with pytest.raises(GmosError, match=r"pip install cuda-bindings .*'cuda-bindings<13'"):
        find_device()


def test_blocks_are_used_again_in_the_order_of_the_stream(cuda: Cuda, fake_cuda: Any) -> None:
    """A block that was dropped is the next one of its size."""
    pool = DevicePool(cuda, cuda.new_stream())
    first = pool.allocate(1000)
    pointer = first.pointer
    del first
    assert pool.allocate(1010).pointer == pointer
    kept = pool.allocate(1010)
    assert pool.allocate(1010).pointer != kept.pointer
    assert fake_cuda.calls["cudaMalloc"] == 2


def test_a_free_block_is_not_written_while_it_is_read(cuda: Cuda, fake_cuda: Any) -> None:
    """Uploads take one of two blocks in turn, and wait for the one that is read longest ago."""
    stream = cuda.new_stream()
    pool = DevicePool(cuda, stream)
    pointers = []
    for _ in range(5):
        block = pool.allocate(4000, "upload")
        pointers.append((block.pointer, block.reusable is not None))
        del block
    a, b = pointers[0][0], pointers[1][0]
    assert pointers == [(a, False), (b, False), (a, True), (b, True), (a, True)]
    cuda.synchronize(stream)
    again = pool.allocate(4000, "upload")
    assert again.pointer in (a, b)


def test_memory_that_is_kept_goes_back_when_room_is_needed(fake_cuda: Any) -> None:
    """Kept blocks of other sizes are no reason to fail."""
    fake_cuda.memory = 100 * MIB
    cuda = Cuda(0, fake_cuda)
    pool = DevicePool(cuda, cuda.new_stream())
    del (large := [pool.allocate(60 * MIB)])[:]
    assert pool.free_bytes() == 100 * MIB
    assert pool.allocate(80 * MIB).nbytes == 80 * MIB
    assert not large
    gc.collect()


def test_out_of_memory_says_where_and_what_to_lower(fake_cuda: Any) -> None:
    """On the device, or within the budget, which counts what others hold."""
    fake_cuda.memory = 100 * MIB
    cuda = Cuda(0, fake_cuda)
    pool = DevicePool(cuda, cuda.new_stream())
    with pytest.raises(
        OutOfDeviceMemoryError, match=r"cuda:0 \(Fake GPU\) has no room for 120 MiB more; lower --b"
    ):
        pool.allocate(120 * MIB)
    bounded = DevicePool(cuda, cuda.new_stream(), budget=50 * MIB)
    bounded.reserve(30 * MIB)
    assert bounded.free_bytes() == 20 * MIB
    held = bounded.allocate(16 * MIB)
    with pytest.raises(
        OutOfDeviceMemoryError, match=r"the memory budget of 50 MiB has no room for 8 MiB more"
    ):
        bounded.allocate(8 * MIB)
    bounded.reserve(-30 * MIB)
    assert bounded.allocate(8 * MIB).pointer != held.pointer


@pytest.mark.parametrize("nbytes", [0, 1, 511, 513, 5000, 123_456, 17 * MIB + 1])
def test_blocks_are_little_larger_than_asked_for(nbytes: int) -> None:
    """By an eighth at most, in steps that TensorRT's alignment divides."""
    size = rounded_size(nbytes)
    assert max(nbytes, 1) <= size <= max(nbytes * 9 // 8 + 512, 512)
    assert size % 512 == 0


def test_a_download_waits_for_its_array_and_not_for_what_came_after(cuda: Cuda, fake_cuda: Any) -> None:
    """So that results of a batch are read while the next one computes."""
    device = EngineDevice(cuda)
    done: list[str] = []
    stream = fake_cuda.streams[int(device.stream)]
    first, second = device.empty((4,), "uint8"), device.empty((4,), "uint8")
    stream.ops.append(lambda: not done.append("first"))
    device.note_ready([first])
    stream.ops.append(lambda: not done.append("second"))
    device.note_ready([second])
    device.download(first)
    assert done == ["first"]
    device.synchronize()
    assert done == ["first", "second"]
    device.close()


def test_events_are_used_again(cuda: Cuda, fake_cuda: Any) -> None:
    """A run marks its streams hundreds of times a second."""
    device = EngineDevice(cuda)
    for number in range(50):
        assert device.download(device.upload(np.full(3, number)))[0] == number
    assert fake_cuda.calls["cudaEventCreateWithFlags"] < 12
    start = cuda.mark(device.stream, timed=True)
    assert cuda.elapsed_ms(start, cuda.mark(device.stream, timed=True)) == 1.5
    del start
    device.close()
    assert fake_cuda.calls["cudaEventDestroy"] == fake_cuda.calls["cudaEventCreateWithFlags"]
