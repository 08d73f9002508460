"""Device memory that is taken once and used again, within a budget."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Literal

from .driver import Cuda, Event, Handle, OutOfDeviceMemoryError

SMALLEST_BYTES = 512
"""Blocks are multiples of this: TensorRT wants addresses of 256, and tiny blocks should be alike."""

ROUNDING_BITS = 3
"""Sizes keep their three leading bits: at most an eighth too large, and lengths that differ a little share."""

UPLOADS_ASIDE = 2
"""Free upload blocks of a size that the device may still be reading before an upload waits for one."""

Use = Literal["compute", "upload"]
"""Which stream writes a block first; all are read in the compute stream."""


class Block:
    """Device memory that somebody holds; it goes back to its pool when nobody does.

    `ready` is done when the block's content is complete, None when that was not noted. `reusable` is
    done when the device no longer reads what was in the memory before; None: before anything given to
    the compute stream now.
    """

    __slots__ = ("_returned", "nbytes", "pointer", "ready", "reusable", "use")

    def __init__(
        self, pointer: int, nbytes: int, use: Use, reusable: Event | None, returned: deque[_Free]
    ) -> None:
        self.pointer, self.nbytes, self.use = pointer, nbytes, use
        self.reusable = reusable
        self.ready: Event | None = None
        self._returned = returned

    def __del__(self) -> None:
        # Only noted here: the collector may run while a stream is being captured.
        self._returned.append(_Free(pointer=self.pointer, nbytes=self.nbytes, use=self.use))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Free:
    pointer: int
    nbytes: int
    use: Use
    reusable: Event | None = None


class DevicePool:
    """Blocks for one compute stream and the copies that feed it.

    A block that was computed into may be handed out at once: what still reads it is ahead in the same
    stream. A block for uploads is handed out with the event that its copy has to wait for.
    `budget` in bytes bounds the pool and what is `reserve`d outside of it; None is no bound.
    """

    def __init__(self, cuda: Cuda, compute: Handle, *, budget: int | None = None) -> None:
        self._cuda = cuda
        self._compute = compute
        self._budget = budget
        self._free: defaultdict[tuple[Use, int], deque[_Free]] = defaultdict(deque)
        self._returned: deque[_Free] = deque()
        self._owned: dict[int, int] = {}
        self._reserved = 0

    @property
    def held_bytes(self) -> int:
        """Bytes taken from the device, in use or kept for later."""
        return sum(self._owned.values())

    def reserve(self, nbytes: int) -> None:
        """Count memory that others take on the device, such as weights; negative gives it back."""
        self._reserved += nbytes

    def free_bytes(self) -> int:
        """What could be allocated now, on the device and within the budget."""
        self._take_back()
        kept = sum(free.nbytes for blocks in self._free.values() for free in blocks)
        room = self._cuda.memory_info()[0] + kept
        if self._budget is not None:
            room = min(room, self._budget - self._reserved - self.held_bytes + kept)
        return max(room, 0)

    def allocate(self, nbytes: int, use: Use = "compute", *, exact: bool = False) -> Block:
        """Memory of at least so many bytes; of no more than that in multiples of 512 if `exact`.

        Raises:
            OutOfDeviceMemoryError: there is no room, not even without what is kept for later.
        """
        size = -(-nbytes // SMALLEST_BYTES) * SMALLEST_BYTES if exact else rounded_size(nbytes)
        self._take_back()
        free = self._pick(self._free[use, size], use)
        if free is None:
            free = _Free(pointer=self._take(size), nbytes=size, use=use)
        return Block(free.pointer, free.nbytes, use, free.reusable, self._returned)

    def trim(self) -> None:
        """Give all that is kept for later back to the device."""
        self._take_back()
        for blocks in self._free.values():
            while blocks:
                free = blocks.pop()
                self._cuda.free(free.pointer)
                del self._owned[free.pointer]
        self._free.clear()

    def close(self) -> None:
        """Give everything back, held or not."""
        for pointer in self._owned:
            self._cuda.free(pointer)
        self._owned.clear()
        self._free.clear()
        self._returned.clear()

    def _take_back(self) -> None:
        """File the blocks that nobody holds any more."""
        upload_event: Event | None = None
        while self._returned:
            free = self._returned.popleft()
            if free.pointer not in self._owned:
                continue
            if free.use == "upload":
                # All that reads the block was given to the compute stream before now.
                upload_event = upload_event or self._cuda.mark(self._compute)
                free = _Free(pointer=free.pointer, nbytes=free.nbytes, use="upload", reusable=upload_event)
            self._free[free.use, free.nbytes].append(free)

    def _pick(self, blocks: deque[_Free], use: Use) -> _Free | None:
        if not blocks:
            return None
        if use == "compute":
            return blocks.pop()
        oldest = blocks[0]
        if len(blocks) < UPLOADS_ASIDE and oldest.reusable and not self._cuda.is_done(oldest.reusable):
            return None
        return blocks.popleft()

    def _take(self, size: int) -> int:
        try:
            pointer = self._new(size)
        except OutOfDeviceMemoryError:
            self.trim()
            pointer = self._new(size)
        self._owned[pointer] = size
        return pointer

    def _new(self, size: int) -> int:
        budget = self._budget
        if budget is not None and self._reserved + self.held_bytes + size > budget:
            raise OutOfDeviceMemoryError(size, f"the memory budget of {budget / 2**20:.0f} MiB")
        return self._cuda.allocate(size)


def rounded_size(nbytes: int) -> int:
    """The size of the block for so many bytes."""
    size = max(nbytes, SMALLEST_BYTES)
    step = max(1 << (size.bit_length() - 1 - ROUNDING_BITS), SMALLEST_BYTES)
    return -(-size // step) * step
