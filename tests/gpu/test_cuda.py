"""CUDA by itself on a real GPU: copies, their order, graphs, events, memory. Needs `cuda-bindings` and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from gmos_deploy.runtime.cuda.arrays import CudaArrays
from gmos_deploy.runtime.cuda.driver import Cuda, OutOfDeviceMemoryError

pytestmark = pytest.mark.gpu

MIB = 1 << 20

LEFT_BYTES = 8 * MIB
"""What CUDA may keep for itself after everything was given back."""

CALL_S = 1e-3
"""Far above the cost of any call; the figure itself is in the test's record."""


@pytest.fixture
def arrays(cuda: Cuda) -> Iterator[CudaArrays]:
    """Of each GPU."""
    made = CudaArrays(cuda)
    yield made
    made.close()


def load(arrays: CudaArrays) -> None:
    """A fifth of a second of work ahead in the stream, so that a missing wait shows."""
    one, other = arrays.empty((256 * MIB,), "uint8"), arrays.empty((256 * MIB,), "uint8")
    for _ in range(200):
        arrays.copy(one, other)


def test_arrays_come_back_under_load(arrays: CudaArrays) -> None:
    """Of any size: within a stage, of several, odd; parked ones too."""
    rng = np.random.default_rng(1)
    load(arrays)
    for nbytes in (1, 511, 4096, 8 * MIB, 8 * MIB + 1, 50 * MIB + 7):
        host = rng.integers(0, 256, nbytes, np.uint8)
        array = arrays.upload(host)
        np.testing.assert_array_equal(arrays.download(array), host)
        np.testing.assert_array_equal(arrays.download(arrays.from_host(arrays.to_host(array))), host)


def test_memory_is_not_written_while_it_is_read(arrays: CudaArrays) -> None:
    """An upload into a block that a copy still reads waits for it, on the device."""
    kept, wanted = [], []
    load(arrays)
    for number in range(40):
        host = np.arange(2 * MIB, dtype=np.uint8).reshape(2, -1) + np.uint8(number)
        parts = arrays.unstack(arrays.upload(host))
        kept.append(arrays.stack(parts[::-1]))
        wanted.append(host[::-1])
        del parts
    for array, host in zip(kept, wanted, strict=True):
        np.testing.assert_array_equal(arrays.download(array), host)


def test_a_second_stream_waits_for_an_event(arrays: CudaArrays) -> None:
    """And reads what the first one wrote before it."""
    cuda, other = arrays.cuda, arrays.cuda.new_stream()
    source, between, target = (arrays.empty((64 * MIB,), "uint8") for _ in range(3))
    host = np.random.default_rng(2).integers(0, 256, 64 * MIB, np.uint8)
    for _ in range(5):
        source = arrays.upload(host)
        load(arrays)
        arrays.copy(between, source)
        cuda.wait_on_device(other, cuda.mark(arrays.stream))
        cuda.copy_on_device(target.pointer, between.pointer, target.nbytes, other)
        cuda.synchronize(other)
        np.testing.assert_array_equal(arrays.download(target), host)
    cuda.end_stream(other)


def test_a_graph_replays_with_other_data(arrays: CudaArrays) -> None:
    """What was recorded does not run then, and runs at each launch."""
    cuda, stream = arrays.cuda, arrays.stream
    source, target = arrays.empty((MIB,), "uint8"), arrays.empty((MIB,), "uint8")
    arrays.copy(target, arrays.upload(np.zeros(MIB, np.uint8)))
    cuda.begin_capture(stream)
    arrays.copy(target, source)
    graph = cuda.end_capture(stream)
    assert not arrays.download(target).any()
    for value in range(1, 5):
        arrays.copy(source, arrays.upload(np.full(MIB, value, np.uint8)))
        cuda.launch(graph, stream)
        assert (arrays.download(target) == value).all()
    cuda.synchronize(stream)
    cuda.end_graph(graph)


def test_events_tell_times(arrays: CudaArrays) -> None:
    """Twice the work takes about twice as long, and no longer than the host waited."""
    cuda, stream = arrays.cuda, arrays.stream

    def timed(times: int) -> float:
        start, began = cuda.mark(stream, timed=True), time.perf_counter()
        for _ in range(times):
            load(arrays)
        end = cuda.mark(stream, timed=True)
        cuda.wait(end)
        found = cuda.elapsed_ms(start, end)
        assert found <= 1e3 * (time.perf_counter() - began) * 1.05
        return found

    timed(1)
    assert 1.5 < timed(4) / timed(2) < 2.5


def test_a_call_is_cheap(arrays: CudaArrays, record_property: pytest.RecordProperty) -> None:
    """Hundreds are made for a tracked frame."""
    one, other = arrays.empty((4096,), "uint8"), arrays.empty((4096,), "uint8")
    began = time.perf_counter()
    for _ in range(1000):
        arrays.copy(one, other)
    seconds = (time.perf_counter() - began) / 1000
    arrays.synchronize()
    record_property("microseconds_of_a_copy", round(1e6 * seconds, 2))
    assert seconds < CALL_S


def test_no_memory_is_an_error_that_passes(arrays: CudaArrays) -> None:
    """Afterwards the device works on, and nothing is taken for lost."""
    with pytest.raises(OutOfDeviceMemoryError, match="has no room for"):
        arrays.pool.allocate(2 * arrays.cuda.memory_info()[1])
    arrays.cuda.check(arrays.stream)
    assert not arrays.cuda.is_lost
    np.testing.assert_array_equal(arrays.download(arrays.upload(np.arange(5))), np.arange(5))


def test_threads_stay_on_their_device(arrays: CudaArrays) -> None:
    """A new thread starts on device 0, whatever the others use."""
    host, found = np.arange(3 * MIB, dtype=np.uint8), []
    thread = threading.Thread(target=lambda: found.append(arrays.download(arrays.upload(host))))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], host)


def test_closing_gives_the_memory_back(cuda: Cuda) -> None:
    """Again and again: nothing is lost on the way."""

    def use() -> int:
        made = CudaArrays(cuda)
        made.download(made.upload(np.zeros(64 * MIB, np.uint8)))
        made.close()
        return cuda.memory_info()[0]

    first = use()
    assert first - min(use() for _ in range(5)) < LEFT_BYTES
