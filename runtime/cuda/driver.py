"""NVIDIA's `cuda-python` bindings behind the few calls that are needed, with errors that say what to do."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError, LostDeviceError, MachineError
from ..host_memory import free_host_bytes

DRIVER, WINDOWS_DRIVER = "libcuda.so.1", "nvcuda.dll"

INSTALL = "pip install cuda-bindings (for CUDA 12, such as JetPack 6: 'cuda-bindings<13')"

SUCCESS, OUT_OF_MEMORY, NOT_READY = 0, 2, 600
"""Numbers of CUDA's runtime API."""

NO_DEVICE = 100
"""CUDA's own word for a machine without a GPU; every other failure is something to mend."""

NO_DEVICE_ERRORS = frozenset({3, 34, 35, 36, 46, NO_DEVICE, 101, 102, 802, 803, 804, 999})
"""No driver, none that fits, or no such device: what a machine must have before anything can run."""

OLD_DRIVER = 35
"""The driver is of an older CUDA than the runtime that NVIDIA's bindings bring."""

LOST_DEVICE_ERRORS = frozenset({214, 220, 226, 700, 702, *range(709, 711), *range(714, 722)})
"""After one of these every later call in the process fails with it."""

_IN_USE = threading.local()
"""`device`: the runtime API and the index of the device that a thread has taken last."""

Handle = Any
"""A stream, event or graph of the bindings; `int(handle)` is its address."""


class OutOfDeviceMemoryError(GmosError):
    """The device, or the budget, has no room for `nbytes` more. The runner adds which network asked."""

    def __init__(self, nbytes: int, where: str) -> None:
        self.nbytes = nbytes
        room = f"room for {nbytes / 2**20:.0f} MiB more" if nbytes else "room left"
        super().__init__(
            f"{where} has no {room}; lower --batch_size, keep features in host "
            "memory with --offload_cpu, or close other programs that use the device"
        )


class PinnedMemory:
    """Host memory that the device copies to and from without a detour; `view` is (N,) uint8."""

    def __init__(self, pointer: int, nbytes: int) -> None:
        self.pointer = pointer
        buffer = (ctypes.c_uint8 * nbytes).from_address(pointer)
        self.view: NDArray[np.uint8] = np.ctypeslib.as_array(buffer)


def load_cuda() -> Any:  # noqa: ANN401 - the bindings have no types
    """The runtime API of the bindings.

    Raises:
        GmosError: they are not installed.
    """
    try:
        from cuda.bindings import runtime  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise GmosError(
            f"CUDA needs NVIDIA's Python bindings ({error}); install them with {INSTALL}"
        ) from error
    return runtime


def has_driver() -> bool:
    """Whether NVIDIA's driver is there: without it older bindings raise errors of their own."""
    try:
        ctypes.CDLL(WINDOWS_DRIVER if sys.platform == "win32" else DRIVER)
    except OSError:
        return False
    return True


def driver_doubt() -> str | None:
    """Why there is no CUDA device as far as NVIDIA's driver knows, in words; None if there is one."""
    try:
        driver = ctypes.CDLL(WINDOWS_DRIVER if sys.platform == "win32" else DRIVER)
    except OSError:
        return "NVIDIA's driver is not installed"
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "NVIDIA's driver finds no device"
    return None


def device_count() -> int:
    """CUDA devices that this process may use, as far as NVIDIA's driver knows; none is opened."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL(WINDOWS_DRIVER if sys.platform == "win32" else DRIVER)
    except OSError:
        return 0
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


class Event:
    """A point in a stream. Its handle goes back for reuse when nobody holds it any more."""

    def __init__(self, handle: Handle, free: deque[Handle]) -> None:
        self.handle = handle
        self._free = free

    def __del__(self) -> None:
        # No CUDA call here: the collector may run while a stream is being captured.
        self._free.append(self.handle)


class Cuda:
    """One CUDA device. Every error is a `GmosError` where a user can act, else a `RuntimeError`."""

    def __init__(self, index: int = 0, library: Any | None = None) -> None:  # noqa: ANN401 - untyped
        if library is None and not has_driver():
            raise GmosError(
                f"no usable CUDA device {index} (NVIDIA's driver is not installed); install it, or use --backend "
                "onnxruntime --device cpu"
            )
        self._cuda = load_cuda() if library is None else library
        self.index = index
        self._free_events: deque[Handle] = deque()
        self._free_timers: deque[Handle] = deque()
        self.is_lost = False
        """An error has made the device useless to this process."""
        self.enter()
        properties = self._call("cudaGetDeviceProperties", index)
        self.name = bytes(properties.name).split(b"\0")[0].decode()
        self.compute_capability = (int(properties.major), int(properties.minor))
        # The host's memory too, then: Jetson.
        self.is_integrated = bool(properties.integrated)

    def __str__(self) -> str:
        return f"cuda:{self.index} ({self.name})"

    def memory_info(self) -> tuple[int, int]:
        """Device memory in bytes: free now, and all."""
        free, total = self._call("cudaMemGetInfo")
        if self.is_integrated:
            # CUDA counts what the system caches of files, such as the engines just read, as taken.
            free = max(int(free), min(free_host_bytes(), int(total)))
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """The address of new device memory, aligned to 256 bytes.

        Raises:
            OutOfDeviceMemoryError: there is no room.
        """
        return int(self._call("cudaMalloc", nbytes, asked=nbytes))

    def free(self, pointer: int) -> None:
        """Give device memory back; waits for the device."""
        self._call("cudaFree", pointer)

    def allocate_pinned(self, nbytes: int) -> PinnedMemory:
        """New pinned host memory."""
        pointer = self._call("cudaHostAlloc", nbytes, self._cuda.cudaHostAllocDefault, asked=nbytes)
        return PinnedMemory(int(pointer), nbytes)

    def free_pinned(self, memory: PinnedMemory) -> None:
        """Give pinned host memory back."""
        self._call("cudaFreeHost", memory.pointer)

    def new_stream(self) -> Handle:
        """A stream that does not wait for the default one."""
        return self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)

    def end_stream(self, stream: Handle) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def mark(self, stream: Handle, *, timed: bool = False) -> Event:
        """An event that is done when everything given to the stream so far is."""
        free = self._free_timers if timed else self._free_events
        try:
            handle = free.pop()
        except IndexError:
            flags = self._cuda.cudaEventDefault if timed else self._cuda.cudaEventDisableTiming
            handle = self._call("cudaEventCreateWithFlags", flags)
        event = Event(handle, free)
        self._call("cudaEventRecord", handle, stream)
        return event

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two timed events that are done."""
        return float(self._call("cudaEventElapsedTime", start.handle, end.handle))

    def wait_on_device(self, stream: Handle, event: Event) -> None:
        """Let what the stream gets from now on wait for the event; the host goes on."""
        self._call("cudaStreamWaitEvent", stream, event.handle, 0)

    def wait(self, event: Event) -> None:
        """Wait on the host for the event."""
        self._call("cudaEventSynchronize", event.handle)

    def is_done(self, event: Event) -> bool:
        """Whether the event has passed."""
        self.enter()
        status = int(self._cuda.cudaEventQuery(event.handle)[0])
        if status not in (SUCCESS, NOT_READY):
            raise self._error("cudaEventQuery", status, None)
        return status == SUCCESS

    def drop_events(self) -> None:
        """Destroy the events that nobody holds."""
        for free in (self._free_events, self._free_timers):
            while free:
                self._call("cudaEventDestroy", free.pop())

    def copy_to_device(self, target: int, source: int, nbytes: int, stream: Handle) -> None:
        """Start a copy from pinned host memory."""
        self._copy(target, source, nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def copy_to_host(self, target: int, source: int, nbytes: int, stream: Handle) -> None:
        """Start a copy to pinned host memory."""
        self._copy(target, source, nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def copy_on_device(self, target: int, source: int, nbytes: int, stream: Handle) -> None:
        """Start a copy between two places on the device."""
        self._copy(target, source, nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice, stream)

    def copy_rows_on_device(  # noqa: PLR0917 - as CUDA orders them
        self,
        target: int,
        target_step: int,
        source: int,
        source_step: int,
        nbytes: int,
        rows: int,
        stream: Handle,
    ) -> None:
        """Start a copy of `rows` times `nbytes` that lie so many bytes apart; together where both are dense."""
        if rows == 1 or target_step == source_step == nbytes:
            self.copy_on_device(target, source, rows * nbytes, stream)
        elif nbytes:
            kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
            self._call(
                "cudaMemcpy2DAsync", target, target_step, source, source_step, nbytes, rows, kind, stream
            )

    def begin_capture(self, stream: Handle) -> None:
        """From now on the stream records instead of running, until `end_capture`."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Handle) -> Handle:
        """What was recorded, ready to launch.

        Raises:
            RuntimeError: something was given to the stream that cannot be recorded.
        """
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Handle, stream: Handle) -> None:
        """Run a recorded graph in the stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def end_graph(self, graph: Handle) -> None:
        """Destroy a recorded graph."""
        self._call("cudaGraphExecDestroy", graph)

    def check(self, stream: Handle) -> None:
        """Raise if a call of another library has lost the device or found no memory on it.

        Each library has a CUDA runtime of its own with a last error of its own. What work on the device has
        failed with is told by the context that they share: by any call that looks at a stream.
        """
        for status in (int(self._cuda.cudaGetLastError()[0]), int(self._cuda.cudaStreamQuery(stream)[0])):
            if status == OUT_OF_MEMORY or status in LOST_DEVICE_ERRORS:
                raise self._error("the work given to it", status, None)

    def synchronize(self, stream: Handle) -> None:
        """Wait on the host for everything given to the stream."""
        self._call("cudaStreamSynchronize", stream)

    def _copy(self, target: int, source: int, nbytes: int, kind: Any, stream: Handle) -> None:  # noqa: ANN401
        if nbytes:
            self._call("cudaMemcpyAsync", target, source, nbytes, kind, stream)

    def enter(self) -> None:
        """Make this the device of the calling thread, for libraries that take the one in use too."""
        # The device in use is a setting of each thread, in which another `Cuda` may have taken another one since.
        if getattr(_IN_USE, "device", None) != (self._cuda, self.index):
            status = int(self._cuda.cudaSetDevice(self.index)[0])
            if status:
                raise self._error("cudaSetDevice", status, None)
            _IN_USE.device = (self._cuda, self.index)

    def _call(self, function: str, *arguments: object, asked: int | None = None) -> Any:  # noqa: ANN401
        """Call a function of the runtime API; its value, or values, without the status in front."""
        self.enter()
        status, *values = getattr(self._cuda, function)(*arguments)
        if int(status):
            raise self._error(function, int(status), asked)
        return values[0] if len(values) == 1 else tuple(values)

    def _error(self, function: str, status: int, asked: int | None) -> Exception:
        """The exception for a status; clears it in CUDA, which keeps the last one."""
        self._cuda.cudaGetLastError()
        if status == OUT_OF_MEMORY:
            return OutOfDeviceMemoryError(asked or 0, str(self) if hasattr(self, "name") else "the device")
        reason = f"CUDA error {status}, {self._text(status)}"
        if status in NO_DEVICE_ERRORS:
            return MachineError(f"no usable CUDA device {self.index} ({reason}): {device_advice(status)}")
        if status in LOST_DEVICE_ERRORS:
            self.is_lost = True
            return LostDeviceError(
                f"cuda:{self.index} failed in {function} ({reason}) and cannot be used any more by this run: "
                "start it again; if it comes back, rebuild the engines with --build, try --no_cuda_graphs, and "
                "update the driver"
            )
        return RuntimeError(f"{function} failed ({reason})")

    def _text(self, status: int) -> str:
        known = self._cuda.cudaGetErrorString(self._cuda.cudaError_t(status))
        return bytes(known[1]).decode() if int(known[0]) == SUCCESS and known[1] else "unknown"


def device_advice(status: int) -> str:
    """What to do where CUDA has no usable device."""
    if status == OLD_DRIVER:
        return (
            "the driver is older than the CUDA of cuda-bindings; install the ones for its CUDA (CUDA 12, such as "
            "JetPack 6: pip install 'cuda-bindings<13'), or update the driver"
        )
    return (
        "check that nvidia-smi lists it and that the driver is as new as the CUDA libraries, or use --backend "
        "onnxruntime --device cpu"
    )


@contextlib.contextmanager
def ignoring_lost_device(cuda: Cuda) -> Iterator[None]:
    """Let an error pass while closing if the device was lost: the first one has been reported."""
    try:
        yield
    except GmosError:
        if not cuda.is_lost:
            raise
