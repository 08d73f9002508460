"""Copies between host and device that do not stop the device's work, through a little pinned memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .device_array import DeviceArray
from .driver import Cuda, Event, Handle, PinnedMemory
from .pool import Block, DevicePool

STAGE_BYTES = 8 << 20
"""Of one pinned buffer: long enough for the full rate of a copy, short enough to overlap with the next."""

UPLOAD_STAGES, DOWNLOAD_STAGES = 4, 2
"""Pinned buffers each way: 48 MiB together, whatever the arrays' sizes."""


_Piece = tuple[NDArray[np.uint8], int, int]
"""Where a part of a download belongs: the array's bytes, start and length."""


class _Stage:
    """A pinned buffer, the event after which its last copy is done, and how much of it uploads have filled."""

    def __init__(self, memory: PinnedMemory) -> None:
        self.memory = memory
        self.copied: Event | None = None
        self.filled = 0


class Transfers:
    """Uploads overlap with the compute stream's work; downloads wait for the array and no further."""

    def __init__(self, cuda: Cuda, pool: DevicePool, compute: Handle) -> None:
        self._cuda = cuda
        self._pool = pool
        self._compute = compute
        self._up, self._down = cuda.new_stream(), cuda.new_stream()
        self._up_stages: list[_Stage] = []
        self._down_stages: list[_Stage] = []
        self._turn = 0

    def upload(self, host: NDArray[np.uint8], block: Block) -> None:
        """Copy contiguous bytes to a block; what the compute stream gets after this finds them there."""
        if block.reusable is not None:
            self._cuda.wait_on_device(self._up, block.reusable)
        for start, size in _pieces(host.nbytes):
            stage = self._up_stage(size)
            place = stage.filled
            stage.memory.view[place : place + size] = host[start : start + size]
            self._cuda.copy_to_device(block.pointer + start, stage.memory.pointer + place, size, self._up)
            stage.filled += size
            stage.copied = block.ready = self._cuda.mark(self._up)
        if host.nbytes and block.ready is not None:
            self._cuda.wait_on_device(self._compute, block.ready)

    def download(self, array: DeviceArray) -> NDArray[np.uint8]:
        """The bytes of an array, once it is complete."""
        return self.download_all([array])[0]

    def download_all(self, arrays: Sequence[DeviceArray]) -> list[NDArray[np.uint8]]:
        """The bytes of several arrays, once all are complete; those that fit a stage together are one wait."""
        hosts = [np.empty(array.nbytes, np.uint8) for array in arrays]
        if not any(array.nbytes for array in arrays):
            return hosts
        noted = [array.owner.ready if isinstance(array.owner, Block) else None for array in arrays]
        readies = {id(ready): ready for ready in noted if ready is not None}
        if None in noted:
            # Not noted when one was complete: then it is when everything so far is.
            readies = {0: self._cuda.mark(self._compute)}
        for ready in readies.values():
            self._cuda.wait_on_device(self._down, ready)
        stages = self._ready_down_stages()
        waiting: deque[tuple[_Stage, list[_Piece]]] = deque()
        for i, pieces in enumerate(_filled(hosts)):
            if len(waiting) == len(stages):
                self._empty(*waiting.popleft())
            stage, place = stages[i % len(stages)], 0
            for n, start, size in pieces:
                self._cuda.copy_to_host(
                    stage.memory.pointer + place, arrays[n].pointer + start, size, self._down
                )
                place += size
            stage.copied = self._cuda.mark(self._down)
            waiting.append((stage, [(hosts[n], start, size) for n, start, size in pieces]))
        for left in waiting:
            self._empty(*left)
        return hosts

    def synchronize(self) -> None:
        """Wait for all copies."""
        self._cuda.synchronize(self._up)
        self._cuda.synchronize(self._down)

    def close(self) -> None:
        """Give the pinned memory and the streams back."""
        self.synchronize()
        for stage in (*self._up_stages, *self._down_stages):
            self._cuda.free_pinned(stage.memory)
        self._up_stages.clear()
        self._down_stages.clear()
        self._cuda.end_stream(self._up)
        self._cuda.end_stream(self._down)

    def _up_stage(self, size: int) -> _Stage:
        """A stage with room for so many bytes: small uploads share one."""
        if self._up_stages and self._up_stages[self._turn].filled + size <= STAGE_BYTES:
            return self._up_stages[self._turn]
        if len(self._up_stages) < UPLOAD_STAGES:
            self._up_stages.append(_Stage(self._cuda.allocate_pinned(STAGE_BYTES)))
            self._turn = len(self._up_stages) - 1
        else:
            self._turn = (self._turn + 1) % UPLOAD_STAGES
        stage = self._up_stages[self._turn]
        if stage.copied is not None:
            self._cuda.wait(stage.copied)
        stage.filled = 0
        return stage

    def _ready_down_stages(self) -> list[_Stage]:
        while len(self._down_stages) < DOWNLOAD_STAGES:
            self._down_stages.append(_Stage(self._cuda.allocate_pinned(STAGE_BYTES)))
        return self._down_stages

    def _empty(self, stage: _Stage, pieces: Sequence[_Piece]) -> None:
        if stage.copied is not None:
            self._cuda.wait(stage.copied)
        place = 0
        for host, start, size in pieces:
            host[start : start + size] = stage.memory.view[place : place + size]
            place += size


def _filled(hosts: Sequence[NDArray[np.uint8]]) -> Iterator[list[tuple[int, int, int]]]:
    """What goes into a stage together: the number of an array, start and length of its part."""
    pieces: list[tuple[int, int, int]] = []
    room = STAGE_BYTES
    for number, host in enumerate(hosts):
        for start, size in _pieces(host.nbytes):
            if size > room:
                yield pieces
                pieces, room = [], STAGE_BYTES
            pieces.append((number, start, size))
            room -= size
    if pieces:
        yield pieces


def _pieces(nbytes: int) -> Iterator[tuple[int, int]]:
    """Start and length of the parts that fit a stage."""
    for start in range(0, nbytes, STAGE_BYTES):
        yield start, min(STAGE_BYTES, nbytes - start)
