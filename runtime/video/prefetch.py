"""Work done ahead of its use, in threads, with a bound on how far ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from threading import Condition, RLock, Thread
from types import GeneratorType
from typing import Generic, TypeVar

from ...errors import GmosError

Source = TypeVar("Source")
Result = TypeVar("Result")


class Prefetched(Generic[Source, Result]):
    """Reads an iterable in one background thread and transforms its items in others.

    Use it in a `with` statement: threads start on entry and have ended after exit, whether or not
    everything was consumed. Results come in order; an exception of the iterable or the transform is
    raised in the consumer after the results before it, and ends the iteration. One consumer at a time.
    """

    def __init__(
        self,
        iterable: Iterable[Source],
        *,
        depth: int,
        transform: Callable[[Source], Result],
        workers: int = 1,
    ) -> None:
        """Prepare; nothing is read before entry.

        Args:
            iterable: read in one thread, item by item; a generator is also closed there.
            depth: items that may have been read and not consumed, at least 1.
            transform: called on each item; with several workers, on several items at once.
            workers: threads that transform. More than `depth` of them have nothing to do.

        Raises:
            GmosError: `depth` or `workers` is less than 1.
        """
        if depth < 1 or workers < 1:
            raise GmosError(f"prefetch depth {depth} with {workers} workers: expected at least 1 of each")
        self._iterable = iterable
        self._transform = transform
        self._depth = depth
        self._ahead: deque[Future[Result]] = deque()
        self._error: BaseException | None = None
        self._finished = False
        self._stopped = False
        self._closed = False
        # Taken by itself: Condition enters it in Python code, where Ctrl-C can land when it is held and not yet to be
        # released; the threads would then wait for it for ever.
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="transform")
        # A daemon: a read that hangs in the system must not keep the process alive.
        self._reader = Thread(target=self._read, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetched[Source, Result]:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop after the items in hand, drop what was not consumed and wait for the threads to end."""
        with self._lock:
            self._closed = True
            self._stop()
        if self._reader.ident is not None:
            self._reader.join()
        self._workers.shutdown()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        if self._reader.ident is None:
            raise RuntimeError("the prefetcher was never entered: use it in a with statement")
        with self._lock:
            # Not in future.result(): its condition is entered in Python code too.
            self._changed.wait_for(self._answerable)
            if self._closed:
                raise RuntimeError("the prefetcher is closed")
            if not self._ahead:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopIteration
            future = self._ahead[0]
        try:
            result = future.result()
        except BaseException:
            with self._lock:
                self._stop()
            raise
        with self._lock:
            # It counted as ahead while it was waited for; closing may have cleared it since.
            if self._ahead and self._ahead[0] is future:
                self._ahead.popleft()
            self._changed.notify_all()
        return result

    def _answerable(self) -> bool:
        return self._stopped or (self._ahead[0].done() if self._ahead else self._finished)

    def _stop(self) -> None:
        """End the reading and forget what is ahead. The caller holds the lock."""
        self._stopped = True
        self._error = None
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._changed.notify_all()

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            iterator = iter(self._iterable)
            if isinstance(iterator, GeneratorType):
                # Its clean-up must run here, not wherever the garbage collector finds it.
                with closing(iterator):
                    self._submit_all(iterator)
            else:
                self._submit_all(iterator)
        except BaseException as caught:  # noqa: BLE001 - not swallowed: the consumer raises it
            error = caught
        with self._lock:
            if not self._stopped:
                self._error = error
            self._finished = True
            self._changed.notify_all()

    def _submit_all(self, iterator: Iterator[Source]) -> None:
        while True:
            with self._lock:
                self._changed.wait_for(lambda: len(self._ahead) < self._depth or self._stopped)
                if self._stopped:
                    return
            try:
                source = next(iterator)
            except StopIteration:
                return
            with self._lock:
                self._submit(source)

    def _submit(self, source: Source) -> None:
        """Hand an item to the workers, unless the end came while it was read. The caller holds the lock."""
        if not self._stopped:
            future = self._workers.submit(self._transform, source)
            self._ahead.append(future)
            future.add_done_callback(self._done)

    def _done(self, _: Future[Result]) -> None:
        with self._lock:
            self._changed.notify_all()
