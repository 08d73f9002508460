"""What passes between the threads of a live run: a kept frame on its way in, and who takes answers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..frame_result import FrameResult


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFrame:
    """A frame that was kept.

    `index` counts the source's frames from 0, dropped and lost ones included; `time_s` is the source's clock and
    `arrival_s` the monotonic one, in seconds. `rgb` is (H, W, 3) uint8. `dropped_before` counts frames that were
    left out since the kept frame before; `new_sequence` says that nothing before this frame belongs to it. `pi3_rgb` is
    the frame at Pi3's size, (3, h*14, w*14) uint8, where `LiveSession.prepare` has made it.
    """

    index: int
    time_s: float
    arrival_s: float
    rgb: NDArray[np.uint8] = field(repr=False)
    dropped_before: int = 0
    new_sequence: bool = False
    pi3_rgb: NDArray[np.uint8] | None = field(default=None, repr=False)


class LiveSink(AbstractContextManager["LiveSink"], Protocol):
    """Takes the answers of a live run one by one: files, standard output, a page."""

    needs_rgb: bool
    """Whether answers must come with their frames."""

    def write(self, answer: FrameResult) -> None:
        """Take one answer.

        Raises:
            GmosError: it cannot be written, and the run ends.
        """
