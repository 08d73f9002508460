"""Copies between host and device that do not stop the device's work, through a little pinned memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .device_array import DeviceArray
from .driver import Cuda, Event, Handle, PinnedMemory
from .pool import Block, DevicePool

STAGE_BYTES = 8 << 20
"""Of one pinned buffer: long enough for the full rate of a copy, short enough to overlap with the next."""

UPLOAD_STAGES, DOWNLOAD_STAGES = 4, 2
"""Pinned buffers each way: 48 MiB together, whatever the arrays' sizes."""


class _Stage:
    """A pinned buffer, and the event after which its last copy is done."""

    def __init__(self, memory: PinnedMemory) -> None:
        self.memory = memory
        self.copied: Event | None = None


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
            stage = self._next_up_stage()
            stage.memory.view[:size] = host[start : start + size]
            self._cuda.copy_to_device(block.pointer + start, stage.memory.pointer, size, self._up)
            stage.copied = self._cuda.mark(self._up)
        if host.nbytes:
            block.ready = self._cuda.mark(self._up)
            self._cuda.wait_on_device(self._compute, block.ready)

    def download(self, array: DeviceArray) -> NDArray[np.uint8]:
        """The bytes of an array, once it is complete."""
        host = np.empty(array.nbytes, np.uint8)
        if not array.nbytes:
            return host
        ready = array.owner.ready if isinstance(array.owner, Block) else None
        # Not noted when it was complete: then it is when everything so far is.
        self._cuda.wait_on_device(self._down, ready or self._cuda.mark(self._compute))
        stages = self._ready_down_stages()
        waiting: list[tuple[_Stage, int, int]] = []
        for i, (start, size) in enumerate(_pieces(array.nbytes)):
            if len(waiting) == len(stages):
                self._empty(host, *waiting.pop(0))
            stage = stages[i % len(stages)]
            self._cuda.copy_to_host(stage.memory.pointer, array.pointer + start, size, self._down)
            stage.copied = self._cuda.mark(self._down)
            waiting.append((stage, start, size))
        for left in waiting:
            self._empty(host, *left)
        return host

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

    def _next_up_stage(self) -> _Stage:
        if len(self._up_stages) < UPLOAD_STAGES:
            self._up_stages.append(_Stage(self._cuda.allocate_pinned(STAGE_BYTES)))
            return self._up_stages[-1]
        stage = self._up_stages[self._turn]
        self._turn = (self._turn + 1) % UPLOAD_STAGES
        if stage.copied is not None:
            self._cuda.wait(stage.copied)
        return stage

    def _ready_down_stages(self) -> list[_Stage]:
        while len(self._down_stages) < DOWNLOAD_STAGES:
            self._down_stages.append(_Stage(self._cuda.allocate_pinned(STAGE_BYTES)))
        return self._down_stages

    def _empty(self, host: NDArray[np.uint8], stage: _Stage, start: int, size: int) -> None:
        if stage.copied is not None:
            self._cuda.wait(stage.copied)
        host[start : start + size] = stage.memory.view[:size]


def _pieces(nbytes: int) -> Iterator[tuple[int, int]]:
    """Start and length of the parts that fit a stage."""
    for start in range(0, nbytes, STAGE_BYTES):
        yield start, min(STAGE_BYTES, nbytes - start)
