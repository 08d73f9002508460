"""A CUDA device in host memory that works only when somebody waits for it, so that a missing wait shows."""

from __future__ import annotations

import ctypes
import re
import threading
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.runtime.cuda.driver import Cuda

Op = Callable[[], bool]
"""Does one step of a stream; False: it has to wait for another stream."""

FRESH, FREED = 0xCD, 0xDD
"""Bytes of memory that nobody has written, and that nobody may read any more."""


@dataclass(eq=False)
class Stream:
    """Work that runs when somebody waits for it, and not before."""

    number: int
    ops: list[Op] = field(default_factory=list)
    capturing: list[Op] | None = None

    def __int__(self) -> int:
        return self.number


@dataclass(eq=False)
class Point:
    """Where an event was recorded."""

    stream: Stream
    done: bool = False


@dataclass(eq=False)
class FakeEvent:
    point: Point | None = None


class Places(dict[int, "ctypes.Array[Any]"]):
    """Allocations by address. Every copy asks which one holds an address, and a long video has hundreds."""

    def __init__(self) -> None:
        super().__init__()
        self._starts: list[int] = []

    def __setitem__(self, start: int, buffer: ctypes.Array[Any]) -> None:
        insort(self._starts, start)
        super().__setitem__(start, buffer)

    def take(self, start: int) -> ctypes.Array[Any]:
        """An allocation that is none any more."""
        buffer = self.pop(start)
        self._starts.remove(start)
        return buffer

    def last_before(self, address: int) -> int | None:
        """Where the last allocation begins that does not begin behind an address."""
        number = bisect_right(self._starts, address)
        return self._starts[number - 1] if number else None


class FakeCuda:
    """The runtime API of `cuda-python`. Copies and engines run only when the host waits for them."""

    cudaEventDefault, cudaEventDisableTiming, cudaStreamNonBlocking, cudaHostAllocDefault = 0, 2, 1, 0  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down", cudaMemcpyDeviceToDevice="across"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaError_t = staticmethod(int)  # noqa: N815

    def __init__(self, memory: int = 1 << 30) -> None:
        self.memory = memory
        self.integrated = False
        self.calls: Counter[str] = Counter()
        self.device, self.pinned = Places(), Places()
        self.outside = 0
        """Device memory that others hold."""
        self.streams: dict[int, Stream] = {}
        self.failures: dict[str, int] = {}
        """Status to answer by function; one that loses the device stays."""
        self.sticky = 0
        self.entered: list[tuple[str, int]] = []
        """Threads that took a device, and which."""
        self._grave: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        body = getattr(type(self), re.sub("([A-Z])", r"_\1", name.removeprefix("cuda")).lower()[1:])

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls[name] += 1
            asks = name.startswith("cudaGet")
            status = self.failures.pop(name, 0) or (0 if asks else self.sticky)
            if status:
                if name == "cudaStreamEndCapture":
                    arguments[0].capturing = None
                self.sticky = status if status >= 700 and status < 800 else 0
                return (status, *(None,) * 2)[: 1 + (name in HAS_VALUE) + (name == "cudaMemGetInfo")]
            value = body(self, *arguments)
            if isinstance(value, Status):
                return (value.number, *(None,) * (name in HAS_VALUE))
            return (0,) if value is None else (0, *value) if isinstance(value, tuple) else (0, value)

        return call

    @property
    def used(self) -> int:
        return sum(len(buffer) for buffer in self.device.values()) + self.outside

    def view(self, address: int, nbytes: int, places: Places) -> NDArray[np.uint8]:
        """Bytes of an allocation that is still there."""
        start = places.last_before(address)
        if start is not None and address + nbytes <= start + len(places[start]):
            return np.ctypeslib.as_array(places[start])[address - start :][:nbytes]
        raise AssertionError(f"{nbytes} bytes at {address:#x} are in no allocation")

    def add(self, stream: Stream, op: Op) -> None:
        (stream.ops if stream.capturing is None else stream.capturing).append(op)

    def run(self, stream: Stream, until: Point | None = None) -> None:
        """Work a stream off, and of the others only what it waits for."""
        while stream.ops and not (until is not None and until.done):
            op = stream.ops[0]
            if op():
                stream.ops.pop(0)

    def run_all(self) -> None:
        for stream in self.streams.values():
            self.run(stream)

    def set_device(self, index: int) -> None:
        self.entered.append((threading.current_thread().name, index))

    def get_device_count(self) -> int:
        return 1

    def get_device_properties(self, index: int) -> Any:
        return SimpleNamespace(name=b"Fake GPU\0\0", major=8, minor=7, integrated=int(self.integrated))

    def get_last_error(self) -> None: ...

    def get_error_string(self, status: int) -> bytes:
        return {2: b"out of memory", 700: b"an illegal memory access was encountered"}.get(
            status, b"some reason"
        )

    def mem_get_info(self) -> tuple[int, int]:
        return max(self.memory - self.used, 0), self.memory

    def malloc(self, nbytes: int) -> Any:
        if self.used + nbytes > self.memory:
            return Status(2)
        return self._new(nbytes, self.device)

    def host_alloc(self, nbytes: int, flags: int) -> int:
        return self._new(nbytes, self.pinned)

    def _new(self, nbytes: int, places: Places) -> int:
        buffer = (ctypes.c_uint8 * (nbytes + 255)).from_buffer(bytearray([FRESH]) * (nbytes + 255))
        address = -(-ctypes.addressof(buffer) // 256) * 256
        places[address] = (ctypes.c_uint8 * nbytes).from_address(address)
        self._grave.append(buffer)
        return address

    def free(self, pointer: int) -> None:
        self.run_all()
        np.ctypeslib.as_array(self.device.take(pointer))[:] = FREED

    def free_host(self, pointer: int) -> None:
        np.ctypeslib.as_array(self.pinned.take(pointer))[:] = FREED

    def stream_create_with_flags(self, flags: int) -> Stream:
        stream = Stream(number=len(self.streams) + 1)
        self.streams[stream.number] = stream
        return stream

    def stream_destroy(self, stream: Stream) -> None:
        self.run(self.streams.pop(stream.number))

    def stream_query(self, stream: Stream) -> Any:
        return Status(900 if stream.capturing is not None else 600) if stream.ops else None

    def stream_synchronize(self, stream: Stream) -> Any:
        if stream.capturing is not None:
            return Status(900)
        self.run(stream)
        return None

    def event_create_with_flags(self, flags: int) -> FakeEvent:
        return FakeEvent()

    def event_destroy(self, event: FakeEvent) -> None: ...

    def event_record(self, event: FakeEvent, stream: Stream) -> Any:
        if stream.capturing is not None:
            return Status(900)
        point = event.point = Point(stream)

        def pass_it() -> bool:
            point.done = True
            return True

        self.add(stream, pass_it)
        return None

    def stream_wait_event(self, stream: Stream, event: FakeEvent, flags: int) -> None:
        point = event.point
        assert point is not None

        def wait() -> bool:
            self.run(point.stream, until=point)
            return point.done

        self.add(stream, wait)

    def event_synchronize(self, event: FakeEvent) -> None:
        assert event.point is not None
        self.run(event.point.stream, until=event.point)

    def event_query(self, event: FakeEvent) -> Any:
        assert event.point is not None
        return None if event.point.done else Status(600)

    def event_elapsed_time(self, start: FakeEvent, end: FakeEvent) -> float:
        return 1.5

    def memcpy_async(self, target: int, source: int, nbytes: int, kind: str, stream: Stream) -> None:
        to = self.pinned if kind == "down" else self.device
        of = self.pinned if kind == "up" else self.device

        def copy() -> bool:
            self.view(target, nbytes, to)[:] = self.view(source, nbytes, of).copy()
            return True

        self.view(target, nbytes, to), self.view(source, nbytes, of)
        self.add(stream, copy)

    def memcpy2_d_async(
        self,
        target: int,
        target_step: int,
        source: int,
        source_step: int,
        width: int,
        rows: int,
        kind: str,
        stream: Stream,
    ) -> None:
        assert width <= min(target_step, source_step)
        for row in range(rows):
            self.memcpy_async(target + row * target_step, source + row * source_step, width, kind, stream)

    def stream_begin_capture(self, stream: Stream, mode: int) -> None:
        stream.capturing = []

    def stream_end_capture(self, stream: Stream) -> Any:
        ops, stream.capturing = stream.capturing, None
        return ops

    def graph_instantiate(self, graph: list[Op], flags: int) -> Any:
        return SimpleNamespace(ops=graph)

    def graph_destroy(self, graph: list[Op]) -> None: ...

    def graph_exec_destroy(self, graph: Any) -> None:
        graph.ops = None

    def graph_launch(self, graph: Any, stream: Stream) -> None:
        for op in graph.ops:
            self.add(stream, op)


@dataclass
class Status:
    """A status that a fake function answers with."""

    number: int


HAS_VALUE = {
    "cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaStreamEndCapture",
    "cudaGraphInstantiate", "cudaEventElapsedTime", "cudaMemGetInfo", "cudaGetDeviceProperties", "cudaGetDeviceCount",
}  # fmt: skip


@pytest.fixture
def fake_cuda() -> FakeCuda:
    """The runtime API of a device with 1 GiB."""
    return FakeCuda()


@pytest.fixture
def cuda(fake_cuda: FakeCuda) -> Cuda:
    """The wrapper on it."""
    return Cuda(0, fake_cuda)


@pytest.fixture(scope="session")
def make_fake_cuda() -> Callable[..., FakeCuda]:
    """Makes such devices; takes the bytes of memory."""
    return FakeCuda


@pytest.fixture
def timed_cuda(make_fake_cuda: Callable[..., Any]) -> Callable[..., Any]:
    """Makes fake devices whose events tell the bytes that were copied between them."""
    base = type(make_fake_cuda())

    class Timed(base):  # type: ignore[misc, valid-type]
        copied = 0

        def memcpy_async(self, target: int, source: int, nbytes: int, kind: str, stream: Any) -> None:
            super().memcpy_async(target, source, nbytes, kind, stream)

            def count() -> bool:
                self.copied += nbytes
                return True

            self.add(stream, count)

        def event_record(self, event: Any, stream: Any) -> Any:
            status = super().event_record(event, stream)
            if status is None:
                point = event.point

                def stamp() -> bool:
                    point.at = self.copied
                    return True

                # Before what passes the event.
                stream.ops.insert(len(stream.ops) - 1, stamp)
            return status

        def event_elapsed_time(self, start: Any, end: Any) -> float:
            return (end.point.at - start.point.at) / 1e6

    return Timed
