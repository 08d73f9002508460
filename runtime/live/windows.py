"""Windows of frames that were kept: which ones a frame's window has, and when it is complete."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..pipeline.encode import FrameTokens
from .incoming import LiveFrame


def kept_window(i: int, kept: Sequence[int], stride: int, window: int = 5) -> tuple[int, ...]:
    """Frames around frame `i`, by number: those of `kept` that are nearest to i and to its neighbours `stride` apart.

    Of two at the same distance the one nearer to `i` is taken. With nothing dropped this is
    `video.sequence.window_indices`.

    Args:
        i: one of `kept`.
        kept: numbers of frames, ascending.
        stride: distance of neighbours in frames.
        window: frames in a window, odd.
    """
    half = window // 2
    targets = (i + step * stride for step in range(-half, half + 1))
    return tuple(min(kept, key=lambda k, t=t: (abs(k - t), abs(k - i))) for t in targets)  # type: ignore[misc]


@dataclass(frozen=True, slots=True, kw_only=True)
class DueWindow:
    """A frame whose window is complete, and the tokens of the frames in its window, in order."""

    frame: LiveFrame
    tokens: Sequence[FrameTokens]


class LiveWindows:
    """Frames of one sequence on their way through windows; made anew for each.

    A frame is due with the first kept frame at or after i + 2s, or at the end. Of the frames that wait nothing but
    these and the tokens that a window may still read are held: 4s + 1 of them, and two more where frames are dropped.
    `stride` is s, in frames; `window` the frames of a window.
    """

    def __init__(self, *, stride: int, window: int) -> None:
        self._stride = stride
        self._window = window
        self._reach = window // 2 * stride
        self._tokens: dict[int, FrameTokens] = {}
        self._waiting: deque[LiveFrame] = deque()

    @property
    def waiting(self) -> int:
        """Frames whose windows are not complete."""
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Frames whose tokens are held."""
        return len(self._tokens)

    def add(self, frame: LiveFrame, tokens: FrameTokens) -> list[DueWindow]:
        """Take the next kept frame with its DINO tokens; the frames that are due with it, in order."""
        self._tokens[frame.index] = tokens
        self._waiting.append(frame)
        due = list(self._due(frame.index - self._reach))
        self._forget()
        return due

    def end(self) -> list[DueWindow]:
        """The frames that still wait, with windows clipped to the last frame; nothing is held afterwards."""
        due = list(self._due(None))
        self._tokens.clear()
        return due

    def _due(self, last: int | None) -> Iterator[DueWindow]:
        kept = list(self._tokens)
        while self._waiting and (last is None or self._waiting[0].index <= last):
            frame = self._waiting.popleft()
            numbers = kept_window(frame.index, kept, self._stride, self._window)
            yield DueWindow(frame=frame, tokens=[self._tokens[number] for number in numbers])

    def _forget(self) -> None:
        """Drop the tokens that no window reads any more: all before the last at or before the oldest neighbour."""
        kept = list(self._tokens)
        read = bisect_right(kept, self._waiting[0].index - self._reach) - 1
        for number in kept[: max(read, 0)]:
            del self._tokens[number]
