"""Arrays on a CUDA device: memory, copies and their order, for ONNX Runtime and engines alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import HostArray, between_on_host
from .device_array import DeviceArray, byte_count, host_values
from .driver import Cuda, ignoring_lost_device
from .pool import Block, DevicePool
from .transfers import Transfers


class CudaArrays:
    """`runtime.arrays.Arrays` of one CUDA device, in the order of one stream: what is handed on needs no waiting.

    `budget` in bytes bounds the arrays and what is reserved beside them; None is no bound.
    """

    def __init__(self, cuda: Cuda, *, budget: int | None = None) -> None:
        self.cuda = cuda
        self.stream = cuda.new_stream()
        self.pool = DevicePool(cuda, self.stream, budget=budget)
        self.transfers = Transfers(cuda, self.pool, self.stream)
        self._closed = False

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """A new array; what is in it is undefined."""
        block = self.pool.allocate(byte_count(shape, dtype))
        return DeviceArray(owner=block, pointer=block.pointer, shape=shape, dtype=dtype)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy an array's content in the stream."""
        self.cuda.copy_on_device(target.pointer, source.pointer, source.nbytes, self.stream)

    def note_ready(self, arrays: Sequence[DeviceArray]) -> None:
        """Note that the arrays are complete after what the stream has been given so far."""
        event = self.cuda.mark(self.stream)
        for array in arrays:
            if isinstance(array.owner, Block):
                array.owner.ready = event

    def upload(self, host: NDArray[np.generic]) -> DeviceArray:
        """As it looks, not as it lies. Starts the copy and returns."""
        host = np.ascontiguousarray(host)
        return self._uploaded(host.reshape(-1).view(np.uint8), host.shape, host.dtype.name)

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """Waits for this array only."""
        return host_values(self.transfers.download(array), array.shape, array.dtype)

    def download_all(self, arrays: Sequence[DeviceArray]) -> list[NDArray[Any]]:
        """Waits for the last of them only."""
        raw = self.transfers.download_all(arrays)
        return [host_values(data, array.shape, array.dtype) for data, array in zip(raw, arrays, strict=True)]

    def stack(self, arrays: Sequence[DeviceArray]) -> DeviceArray:
        """Neighbours in memory are copied together, and not at all if they are all that there is."""
        return self.stack_rows([[array] for array in arrays], (len(arrays),))

    def stack_rows(
        self, rows: Sequence[Sequence[DeviceArray]], lead: tuple[int, ...] | None = None
    ) -> DeviceArray:
        """Neighbours in a row are copied together, and so are parts of rows that lie equally far apart in a block."""
        first, columns = rows[0][0], len(rows[0])
        shape = (*((len(rows), columns) if lead is None else lead), *first.shape)
        size = first.nbytes
        # Where some row goes on elsewhere, all are cut.
        cuts = [
            0,
            *(i for i in range(1, columns) if not all(_follows(row[i], row[i - 1]) for row in rows)),
            columns,
        ]
        parts = [
            (start, (stop - start) * size, _runs([row[start] for row in rows], (stop - start) * size))
            for start, stop in pairwise(cuts)
        ]
        if len(parts) == 1 and len(parts[0][2]) == 1 and parts[0][2][0].step == columns * size:
            return replace(first, shape=shape)
        stacked = self.empty(shape, first.dtype)
        for start, width, runs in parts:
            target = stacked.pointer + start * size
            for run in runs:
                self.cuda.copy_rows_on_device(
                    target, columns * size, run.pointer, run.step, width, run.count, self.stream
                )
                target += run.count * columns * size
        return stacked

    def unstack(self, array: DeviceArray) -> Sequence[DeviceArray]:
        """In the same memory."""
        return array.slices()

    def between(self, first: DeviceArray, last: DeviceArray, shares: Sequence[float]) -> list[DeviceArray]:
        """On the host: nothing here computes. Both ends are waited for and copied, which a decoder's call outweighs."""
        return between_on_host(self, first, last, shares)

    def nbytes(self, array: DeviceArray) -> int:
        """Bytes of the elements; its memory may be larger."""
        return array.nbytes

    def to_host(self, array: DeviceArray) -> HostArray:
        """Waits for this array only."""
        return HostArray(data=self.transfers.download(array), shape=array.shape, dtype=array.dtype)

    def from_host(self, parked: HostArray) -> DeviceArray:
        """Starts the copy and returns."""
        return self._uploaded(np.ascontiguousarray(parked.data), parked.shape, parked.dtype)

    def free_bytes(self) -> int:
        """What could be allocated now, on the device and within the budget."""
        return self.pool.free_bytes()

    def synchronize(self) -> None:
        """Wait for the stream and all copies."""
        self.cuda.synchronize(self.stream)
        self.transfers.synchronize()

    def close(self) -> None:
        """Give all memory back, once; a device that was lost has nothing to give."""
        if self._closed:
            return
        self._closed = True
        with ignoring_lost_device(self.cuda):
            self.synchronize()
            self.transfers.close()
            self.pool.close()
            self.cuda.end_stream(self.stream)
            self.cuda.drop_events()

    def _uploaded(self, raw: NDArray[np.uint8], shape: tuple[int, ...], dtype: str) -> DeviceArray:
        block = self.pool.allocate(raw.nbytes, "upload")
        self.transfers.upload(raw, block)
        return DeviceArray(owner=block, pointer=block.pointer, shape=tuple(shape), dtype=dtype)


@dataclass(slots=True)
class _Run:
    """`count` arrays in one block, `step` bytes apart."""

    owner: object
    pointer: int
    step: int
    count: int = 1


def _follows(array: DeviceArray, before: DeviceArray) -> bool:
    return array.owner is before.owner and array.pointer == before.pointer + before.nbytes


def _runs(arrays: Sequence[DeviceArray], size: int) -> list[_Run]:
    """Parts of so many bytes, cut where the next one lies elsewhere."""
    found: list[_Run] = []
    for array in arrays:
        run = found[-1] if found else None
        if run is not None and array.owner is run.owner:
            step = array.pointer - run.pointer if run.count == 1 else run.step
            if step >= size and array.pointer == run.pointer + run.count * step:
                run.step, run.count = step, run.count + 1
                continue
        found.append(_Run(array.owner, array.pointer, size))
    return found
