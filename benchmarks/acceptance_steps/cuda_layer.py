"""The CUDA layer by itself: memory, copies, their order, graphs and events, before any network runs on it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.cuda.arrays import CudaArrays
from gmos_deploy.runtime.cuda.device_array import DeviceArray
from gmos_deploy.runtime.cuda.driver import Cuda

from .record import Context, MissingError, Notes

MIB = 1 << 20

SIZES = (1, 511, 4097, 1 << 16, 3 * MIB + 1, 17 * MIB)
"""Bytes of arrays: smaller than a block, around the sizes at which blocks change, more than a pinned buffer."""

LOAD_BYTES, LOAD_COPIES = 64 * MIB, 40
"""Copies on the device that keep the stream busy for some milliseconds, so that what does not wait is too early."""

ROUNDS, CALLS = 20, 2000

LEFT_BYTES = 64 * MIB
"""Device memory that CUDA may keep for itself after everything was given back."""

TIME_RATIO = (1.5, 2.6)
"""Of twice the work over once, by events: outside of it they do not measure the work."""


def cuda_layer(context: Context, notes: Notes) -> None:
    """The step: on the device of the run."""
    try:
        cuda = Cuda(context.device)
    except GmosError as error:
        raise MissingError(str(error)) from error
    examine(cuda, notes)


def examine(cuda: Cuda, notes: Notes, *, rounds: int = ROUNDS, load_bytes: int = LOAD_BYTES) -> None:
    """All parts on one device."""
    notes.add("device", "noted", f"{cuda}, sm{cuda.compute_capability[0]}{cuda.compute_capability[1]}")
    parts: dict[str, Callable[[_Bench], tuple[bool, str]]] = {
        "round trips under load": _round_trips,
        "blocks used again": _block_reuse,
        "order against a second stream": _second_stream,
        "capture and replay": _replay,
        "event times": _event_times,
    }
    for name, part in parts.items():
        notes.attempt(
            name, lambda name=name, part=part: notes.expect(name, *_on_arrays(cuda, part, rounds, load_bytes))
        )
    notes.attempt("cost per call", lambda: _cost(cuda, notes))
    notes.attempt("leaks", lambda: notes.expect("leaks", *_leaks(cuda, rounds)))


class _Bench:
    """Arrays of a device, seeded numbers, and work that keeps its stream busy."""

    def __init__(self, cuda: Cuda, rounds: int, load_bytes: int) -> None:
        self.cuda, self.rounds, self.load_bytes = cuda, rounds, load_bytes
        self.arrays = CudaArrays(cuda)
        self.random = np.random.default_rng(0)
        self._load = [self.arrays.empty((load_bytes,), "uint8") for _ in range(2)]

    def load(self, copies: int = LOAD_COPIES) -> None:
        """Give the stream some milliseconds of copies."""
        for _ in range(copies):
            self.arrays.copy(*self._load)

    def bytes(self, count: int) -> Any:  # noqa: ANN401 - an array
        """Random ones."""
        return self.random.integers(0, 256, count, dtype=np.uint8)


def _on_arrays(
    cuda: Cuda, part: Callable[[_Bench], tuple[bool, str]], rounds: int, load_bytes: int
) -> tuple[bool, str]:
    bench = _Bench(cuda, rounds, load_bytes)
    try:
        return part(bench)
    finally:
        bench.arrays.close()


def _round_trips(bench: _Bench) -> tuple[bool, str]:
    """Up, stacked on the device behind a busy stream, and down."""
    wrong = 0
    for _ in range(bench.rounds):
        for size in SIZES:
            given = [bench.bytes(size) for _ in range(2)]
            bench.load(2)
            stacked = bench.arrays.stack([bench.arrays.upload(one) for one in given])
            wrong += not np.array_equal(bench.arrays.download(stacked), np.stack(given))
    return not wrong, f"{wrong} of {bench.rounds * len(SIZES)} came back changed"


def _block_reuse(bench: _Bench) -> tuple[bool, str]:
    """A block is given back while a copy from it still waits in the stream, and filled anew by an upload."""
    wrong, blocks = 0, set()
    for _ in range(bench.rounds):
        first, second = (bench.bytes(MIB) for _ in range(2))
        bench.load(4)
        source = bench.arrays.upload(first)
        kept = bench.arrays.empty(source.shape, source.dtype)
        bench.arrays.copy(kept, source)
        blocks.add(source.pointer)
        del source
        after = bench.arrays.upload(second)
        blocks.add(after.pointer)
        wrong += not np.array_equal(bench.arrays.download(kept), first)
        wrong += not np.array_equal(bench.arrays.download(after), second)
    held = bench.arrays.pool.held_bytes // MIB
    return not wrong, f"{wrong} arrays overwritten too early; {len(blocks)} blocks in turn, {held} MiB held"


def _second_stream(bench: _Bench) -> tuple[bool, str]:
    """What another stream copies after an event must be there; nothing else orders the two."""
    wrong, other = 0, bench.cuda.new_stream()
    target = bench.arrays.empty((MIB,), "uint8")
    for _ in range(bench.rounds):
        given = bench.bytes(MIB)
        source = bench.arrays.upload(given)
        between = bench.arrays.empty(source.shape, source.dtype)
        bench.load(8)
        bench.arrays.copy(between, source)
        bench.cuda.wait_on_device(other, bench.cuda.mark(bench.arrays.stream))
        bench.cuda.copy_on_device(target.pointer, between.pointer, MIB, other)
        bench.cuda.synchronize(other)
        wrong += not np.array_equal(bench.arrays.download(target), given)
    bench.cuda.end_stream(other)
    return not wrong, f"{wrong} of {bench.rounds} copies were too early"


def _replay(bench: _Bench) -> tuple[bool, str]:
    """A captured copy, launched again with other values at its addresses, equals the copy itself."""
    arrays, cuda = bench.arrays, bench.cuda
    source, target = (arrays.empty((MIB,), "uint8") for _ in range(2))
    # What allocates must not do so while the stream is captured.
    arrays.copy(target, source)
    cuda.begin_capture(arrays.stream)
    arrays.copy(target, source)
    graph, wrong = cuda.end_capture(arrays.stream), 0
    for _ in range(bench.rounds):
        given = bench.bytes(MIB)
        arrays.copy(source, arrays.upload(given))
        cuda.launch(graph, arrays.stream)
        wrong += not np.array_equal(arrays.download(target), given)
    cuda.end_graph(graph)
    return not wrong, f"{wrong} of {bench.rounds} replays gave other values"


def _event_times(bench: _Bench) -> tuple[bool, str]:
    """Twice the copies take about twice as long between two events."""

    def seconds(copies: int) -> float:
        start = bench.cuda.mark(bench.arrays.stream, timed=True)
        bench.load(copies)
        end = bench.cuda.mark(bench.arrays.stream, timed=True)
        bench.cuda.wait(end)
        return bench.cuda.elapsed_ms(start, end) / 1e3

    seconds(LOAD_COPIES)
    once, twice = (statistics.median(seconds(n * LOAD_COPIES) for _ in range(5)) for n in (1, 2))
    ratio, moved = twice / max(once, 1e-9), 2 * LOAD_COPIES * bench.load_bytes / max(once, 1e-9)
    words = f"twice the copies take {ratio:.2f} times as long; {moved / 1e9:.0f} GB/s read and written"
    return TIME_RATIO[0] < ratio < TIME_RATIO[1], words


def _cost(cuda: Cuda, notes: Notes) -> None:
    """Microseconds of the host for each kind of call, the device idle enough to keep up."""
    bench = _Bench(cuda, 1, MIB)
    arrays = bench.arrays
    small: list[DeviceArray] = [arrays.empty((64,), "uint8") for _ in range(2)]
    cuda.begin_capture(arrays.stream)
    arrays.copy(*small)
    graph = cuda.end_capture(arrays.stream)
    calls: dict[str, Callable[[], object]] = {
        "copy on the device": lambda: arrays.copy(*small),
        "event": lambda: cuda.mark(arrays.stream),
        "launch of a graph": lambda: cuda.launch(graph, arrays.stream),
        "new array": lambda: arrays.empty((4096,), "uint8"),
    }
    found = {}
    for name, call in calls.items():
        call()
        cuda.synchronize(arrays.stream)
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        found[name] = (time.perf_counter() - start) / CALLS * 1e6
        cuda.synchronize(arrays.stream)
    cuda.end_graph(graph)
    arrays.close()
    words = ", ".join(f"{name} {microseconds:.1f} us" for name, microseconds in found.items())
    notes.add("cost per call", "noted", words, microseconds=found)


def _leaks(cuda: Cuda, rounds: int) -> tuple[bool, str]:
    """Arrays made, used and closed, over and over."""

    def once() -> None:
        arrays = CudaArrays(cuda)
        arrays.download(arrays.upload(np.zeros(9 * MIB, np.uint8)))
        arrays.close()

    once()
    before = cuda.memory_info()[0]
    for _ in range(rounds):
        once()
    lost = before - cuda.memory_info()[0]
    return lost <= LEFT_BYTES, f"{lost / MIB:.1f} MiB of device memory gone after {rounds} rounds"
