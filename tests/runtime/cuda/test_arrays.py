"""Arrays of every kind that is not PyTorch's: NumPy's, and those of a CUDA device for engines and for sessions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.runtime.cuda import transfers
from gmos_deploy.runtime.cuda.arrays import CudaArrays
from gmos_deploy.runtime.cuda.device_array import DeviceArray
from gmos_deploy.runtime.cuda.driver import Cuda
from gmos_deploy.runtime.onnx.cuda_arrays import OrtCudaArrays
from gmos_deploy.runtime.onnx.sessions import LoadedGraph, OrtHostArrays


class FakeOrtValue:
    """An output that a session has put on the device."""

    def __init__(self, fake_cuda: Any, values: NDArray[Any]) -> None:
        self._pointer = fake_cuda.malloc(values.nbytes)
        self._shape = values.shape
        fake_cuda.view(self._pointer, values.nbytes, fake_cuda.device)[:] = values.reshape(-1).view(np.uint8)

    def data_ptr(self) -> int:
        return self._pointer

    def shape(self) -> list[int]:
        return list(self._shape)


class FakeSession:
    """Multiplies x, which it reads from the device when it runs, with a factor from the host."""

    def __init__(self, fake_cuda: Any) -> None:
        self._cuda = fake_cuda
        self.bound: list[tuple[str, str]] = []
        self._given: dict[str, Any] = {}
        self._outputs: list[FakeOrtValue] = []

    def io_binding(self) -> FakeSession:
        self._outputs = []
        return self

    def bind_input(
        self, name: str, device: str, index: int, dtype: Any, shape: tuple[int, ...], pointer: int
    ) -> None:
        self.bound.append((name, f"{device}:{index}"))
        self._given[name] = (pointer, shape, np.dtype(dtype))

    def bind_cpu_input(self, name: str, array: NDArray[Any]) -> None:
        self.bound.append((name, "cpu"))
        self._given[name] = array

    def bind_output(self, name: str, device: str, index: int) -> None:
        self.bound.append((name, f"{device}:{index}"))

    def get_outputs(self) -> list[Any]:
        return self._outputs or [SimpleNamespace(name="y", type="tensor(float16)")]

    def run_with_iobinding(self, binding: FakeSession, run_options: Any) -> None:
        assert binding is self
        pointer, shape, dtype = self._given["x"]
        raw = self._cuda.view(pointer, int(np.prod(shape)) * dtype.itemsize, self._cuda.device)
        self._outputs = [FakeOrtValue(self._cuda, raw.view(dtype).reshape(shape) * self._given["factor"])]


@pytest.fixture(params=["host", "engines", "sessions"])
def arrays(request: pytest.FixtureRequest, cuda: Cuda) -> Any:
    """Any kind: the pipeline cannot tell them apart."""
    return {"host": OrtHostArrays, "engines": CudaArrays, "sessions": OrtCudaArrays}[request.param](
        *(() if request.param == "host" else (cuda,))
    )


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32"])
def test_arrays_go_to_the_device_and_back(arrays: Any, dtype: str) -> None:
    """Half precision comes back as float32."""
    host = np.arange(24).reshape(2, 3, 4).astype(dtype)
    array = arrays.upload(host)
    back = arrays.download(array)
    np.testing.assert_array_equal(back, host)
    assert back.dtype == ("float32" if dtype == "float16" else dtype)
    assert arrays.nbytes(array) == host.nbytes


def test_stack_and_unstack_are_inverses(arrays: Any) -> None:
    """And a transposed view is uploaded as it looks, not as it lies."""
    host = np.arange(24, dtype=np.float32).reshape(4, 3, 2).T
    parts = arrays.unstack(arrays.upload(host))
    assert len(parts) == 2
    np.testing.assert_array_equal(arrays.download(parts[1]), host[1])
    np.testing.assert_array_equal(arrays.download(arrays.stack(parts)), host)
    np.testing.assert_array_equal(arrays.download(arrays.stack(parts[::-1])), host[::-1])
    assert arrays.download(arrays.stack(parts[:1])).shape == (1, 3, 4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_parking_keeps_every_bit(arrays: Any, dtype: str) -> None:
    """A slice is parked as a slice."""
    host = np.arange(12).reshape(3, 4).astype(dtype)
    parked = arrays.to_host(arrays.unstack(arrays.upload(host))[1])
    assert (parked.shape, parked.dtype, parked.data.nbytes) == ((4,), dtype, host[1].nbytes)
    np.testing.assert_array_equal(arrays.download(arrays.from_host(parked)), host[1])


def test_rows_of_arrays_become_two_axes(arrays: Any) -> None:
    """Wherever they lie: slices of one array in any order, slices a step apart, and arrays of their own."""
    host = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    whole = arrays.unstack(arrays.upload(host))
    alone = arrays.upload(np.full((4, 3), -1, np.float32))
    rows = [[whole[0], whole[3]], [whole[2], alone], [whole[4], whole[1]]]
    expected = np.stack(
        [np.stack(pair) for pair in ([host[0], host[3]], [host[2], -1 + 0 * host[0]], host[[4, 1]])]
    )
    np.testing.assert_array_equal(arrays.download(arrays.stack_rows(rows)), expected)
    np.testing.assert_array_equal(arrays.download(arrays.stack_rows([[whole[1], whole[2]]])), host[None, 1:3])


def test_several_arrays_come_back_together(arrays: Any) -> None:
    """Also larger ones than a pinned buffer, and an empty one among them."""
    hosts = [np.arange(n, dtype=np.float32) for n in (5, 0, (transfers.STAGE_BYTES + 40) // 4, 7)]
    found = arrays.download_all([arrays.upload(host) for host in hosts])
    for host, array in zip(hosts, found, strict=True):
        np.testing.assert_array_equal(array, host)


def test_neighbours_are_copied_together(cuda: Cuda, fake_cuda: Any) -> None:
    """Ten objects that share their frames cost one copy a memory; all there is costs none."""
    arrays = CudaArrays(cuda)
    frames = [arrays.unstack(arrays.upload(np.full((10, 8), n, np.float32))) for n in range(7)]
    fake_cuda.calls.clear()
    stacked = arrays.stack_rows([[frame[o] for frame in frames] for o in range(10)])
    assert fake_cuda.calls["cudaMemcpy2DAsync"] + fake_cuda.calls["cudaMemcpyAsync"] == 7
    assert stacked.shape == (10, 7, 8)
    fake_cuda.calls.clear()
    parts = [arrays.upload(np.full((n, 8), n, np.float32)) for n in (3, 7)]
    fake_cuda.calls.clear()
    joined = arrays.stack([one for part in parts for one in arrays.unstack(part)])
    assert fake_cuda.calls["cudaMemcpyAsync"] == 2
    np.testing.assert_array_equal(arrays.download(joined)[:, 0], [3] * 3 + [7] * 7)
    fake_cuda.calls.clear()
    assert arrays.stack(frames[0]).pointer == frames[0][0].pointer
    assert not fake_cuda.calls


def test_arrays_that_come_back_together_are_waited_for_once(cuda: Cuda, fake_cuda: Any) -> None:
    """What the stream got after the last of them is not."""
    arrays = CudaArrays(cuda)
    hosts = [np.full((4,), n, np.int64) for n in range(3)]
    made = [arrays.upload(host) for host in hosts]
    fake_cuda.calls.clear()
    found = arrays.download_all(made)
    assert fake_cuda.calls["cudaEventSynchronize"] == 1
    np.testing.assert_array_equal(found, hosts)


def test_an_empty_array_can_be_restored(arrays: Any) -> None:
    """An object may have no pointers yet."""
    parked = arrays.to_host(arrays.upload(np.zeros((2, 0, 8), np.float16)))
    assert arrays.download(arrays.from_host(parked)).shape == (2, 0, 8)


def test_there_is_memory_until_it_is_given_back(arrays: Any, fake_cuda: Any) -> None:
    """And nothing is left on the device."""
    assert arrays.free_bytes() > 0
    arrays.upload(np.ones(3))
    arrays.synchronize()
    for _ in range(2):
        arrays.close()
    assert not fake_cuda.device
    assert not fake_cuda.pinned


def test_a_parked_host_array_does_not_change_with_its_source() -> None:
    """It is a copy."""
    host = np.ones(3, np.float32)
    parked = OrtHostArrays().to_host(host)
    host[:] = 2
    np.testing.assert_array_equal(OrtHostArrays().from_host(parked), np.ones(3))


def test_bfloat16_is_read_without_a_numpy_type(cuda: Cuda) -> None:
    """It is the upper half of a float32."""
    arrays = CudaArrays(cuda)
    values = np.array([1.0, -2.5, 3.140625], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    raw = arrays.upload(upper.view(np.uint8))
    array = DeviceArray(owner=raw, pointer=raw.pointer, shape=(3,), dtype="bfloat16")
    np.testing.assert_array_equal(arrays.download(array), values)


def test_a_session_on_cuda_reads_what_is_complete(cuda: Cuda, fake_cuda: Any) -> None:
    """It waits for an upload and a copy before it starts; only shape-like inputs are read on the host."""
    arrays, session = OrtCudaArrays(cuda), FakeSession(fake_cuda)
    parts = arrays.unstack(arrays.upload(np.array([[1, 2], [3, 4]], np.float16)))
    x = arrays.unstack(arrays.stack([parts[1], parts[0]]))[0]
    out = arrays.run(LoadedGraph(session=session), {"x": x, "factor": np.array([2], np.float16)})
    assert session.bound == [("x", "cuda:0"), ("factor", "cpu"), ("y", "cuda:0")]
    assert (out["y"].shape, out["y"].dtype) == ((2,), "float16")
    np.testing.assert_array_equal(arrays.download(out["y"]), [6, 8])


def test_a_session_on_cuda_does_not_write_over_what_is_still_copied(cuda: Cuda, fake_cuda: Any) -> None:
    """ONNX Runtime hands the memory of an output out again at once; a copy of it in another stream may be late.

    Parked arrays are as complete when a session reads them.
    """

    class Reusing(FakeSession):
        memory: FakeOrtValue | None = None

        def run_with_iobinding(self, binding: FakeSession, run_options: Any) -> None:
            super().run_with_iobinding(binding, run_options)
            (made,) = self._outputs
            if self.memory is None:
                self.memory = made
            to, of = (fake_cuda.view(value.data_ptr(), 8, fake_cuda.device) for value in (self.memory, made))
            to[:] = of
            self._outputs = [self.memory]

    arrays, graph = OrtCudaArrays(cuda), LoadedGraph(session=Reusing(fake_cuda))
    doubled = {"factor": np.array([2], np.float16)}
    parked = arrays.to_host(arrays.upload(np.array([[1, 2], [3, 4]], np.float16)))
    first = arrays.unstack(arrays.run(graph, {"x": arrays.from_host(parked), **doubled})["y"])
    kept = arrays.stack(first[::-1])
    del first
    later = arrays.run(graph, {"x": arrays.upload(np.full((2, 2), 9, np.float16)), **doubled})["y"]
    np.testing.assert_array_equal(arrays.download(kept), [[6, 8], [2, 4]])
    np.testing.assert_array_equal(arrays.download(later), np.full((2, 2), 18))
