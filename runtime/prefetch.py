"""Work done ahead of its use, in a thread, with a bound on how far ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from types import GeneratorType, TracebackType
from typing import Generic, TypeVar

from ..errors import GmosError

Source = TypeVar("Source")
Result = TypeVar("Result")


class Prefetched(Generic[Source, Result]):
    """Runs `transform` over an iterable in a background thread, at most `depth` results ahead.

    Use it in a `with` statement: the thread starts on entry and has ended after exit, whether or not
    everything was consumed. Results come in order; an exception of the iterable or the transform is
    raised in the consumer after the results before it. One consumer at a time.
    """

    def __init__(
        self, iterable: Iterable[Source], *, depth: int, transform: Callable[[Source], Result]
    ) -> None:
        if depth < 1:
            raise GmosError(f"prefetch depth {depth}: expected at least 1")
        self._iterable = iterable
        self._transform = transform
        self._depth = depth
        self._ready: deque[Result] = deque()
        self._error: BaseException | None = None
        self._finished = False
        self._closed = False
        self._changed = threading.Condition()
        # A daemon: a read that hangs in the system must not keep the process alive.
        self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetched[Source, Result]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop after the item in hand, drop what was not consumed and wait for the thread to end."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        if self._thread.ident is None:
            raise RuntimeError("the prefetcher was never entered: use it in a with statement")
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._finished or self._closed)
            if self._closed:
                raise RuntimeError("the prefetcher is closed")
            if self._ready:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration

    def _produce(self) -> None:
        error: BaseException | None = None
        try:
            iterator = iter(self._iterable)
            if isinstance(iterator, GeneratorType):
                # Its clean-up must run here, not wherever the garbage collector finds it.
                with closing(iterator):
                    self._run(iterator)
            else:
                self._run(iterator)
        except BaseException as caught:  # noqa: BLE001 - not swallowed: the consumer raises it
            error = caught
        with self._changed:
            self._error = error
            self._finished = True
            self._changed.notify_all()

    def _run(self, iterator: Iterator[Source]) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._ready) < self._depth or self._closed)
                if self._closed:
                    return
            try:
                source = next(iterator)
            except StopIteration:
                return
            item = self._transform(source)
            with self._changed:
                if not self._closed:
                    self._ready.append(item)
                    self._changed.notify_all()
