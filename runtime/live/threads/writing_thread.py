"""The thread that hands answers to files, standard output and the preview, behind a bounded queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Protocol

from ...frame_result import FrameResult
from ..incoming import LiveSink

ANSWERS = 4
"""Answers that may wait to be written; more, and computing waits, and frames are dropped where they come in."""


class Listener(Protocol):
    """Hears answers and counts, and is opened and closed by whoever gives it: the preview."""

    def write(self, answer: FrameResult) -> None:
        """Take an answer, at once."""

    def told(self, numbers: Mapping[str, Any]) -> None:
        """Take counts of the run, once a second."""


@dataclass(frozen=True, slots=True)
class _Counts:
    counts: Mapping[str, Any]


END: Final = object()


class WritingThread:
    """Opens sinks, gives them answers, and closes them, all in one thread.

    Args:
        sinks: take every answer, in this order.
        listeners: hear every answer too, and the counts of the run.
        ended: called when the sinks are closed.
    """

    def __init__(
        self, sinks: Sequence[LiveSink], listeners: Sequence[Listener], ended: Callable[[], None]
    ) -> None:
        self.error: BaseException | None = None
        """Why it ended, where that was an error."""
        self.written = 0
        """Answers that all sinks have taken."""
        self._sinks = sinks
        self._listeners = listeners
        self._ended = ended
        # Queues that are C code: the main thread uses them too, and a signal may interrupt it anywhere.
        self._items: SimpleQueue[FrameResult | _Counts | object] = SimpleQueue()
        self._room: SimpleQueue[bool] = SimpleQueue()
        for _ in range(ANSWERS):
            self._room.put(True)
        self._thread = Thread(target=self._write, name="write live", daemon=True)

    def start(self) -> None:
        """Open the sinks and begin."""
        self._thread.start()

    def put(self, answer: FrameResult) -> bool:
        """Give it an answer, as soon as there is room; False when it has ended."""
        if not self._room.get():
            # For whoever asks again.
            self._room.put(False)
            return False
        self._items.put(answer)
        return True

    def tell(self, counts: Mapping[str, Any]) -> None:
        """Have those told who listen."""
        if self._listeners:
            self._items.put(_Counts(counts))

    def end(self) -> None:
        """Close the sinks when what was given is written."""
        self._items.put(END)

    def join(self) -> None:
        """Wait until it has ended."""
        if self._thread.ident is not None:
            self._thread.join()

    def _write(self) -> None:
        takers: list[LiveSink | Listener] = [*self._sinks, *self._listeners]
        try:
            with ExitStack() as stack:
                for sink in self._sinks:
                    stack.enter_context(sink)
                while (item := self._items.get()) is not END:
                    if isinstance(item, FrameResult):
                        for taker in takers:
                            taker.write(item)
                        self.written += 1
                        self._room.put(True)
                    elif isinstance(item, _Counts):
                        for listener in self._listeners:
                            listener.told(item.counts)
        except BaseException as caught:  # noqa: BLE001 - not swallowed: whoever runs it raises it
            self.error = caught
        self._room.put(False)
        self._ended()
