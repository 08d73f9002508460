"""Work done ahead of its use, in threads, with a bound on how far ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from queue import SimpleQueue
from threading import Thread
from types import GeneratorType
from typing import Final, Generic, NoReturn, TypeVar

from ...errors import GmosError

Source = TypeVar("Source")
Result = TypeVar("Result")

CLOSED = "the prefetcher is closed"
END: Final = object()


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
        self._stopped = self._closed = False
        # Queues that are C code: Ctrl-C in what is entered in Python code, as a Condition is, can leave it locked, and
        # the threads would then wait for it for ever.
        self._room: SimpleQueue[bool] = SimpleQueue()
        """A True for each item that may be read; False wakes the reader up to end."""
        self._ahead: SimpleQueue[SimpleQueue[Callable[[], Result]]] = SimpleQueue()
        """For each item in order what its outcome will be put into, a function that returns or raises it."""
        for _ in range(depth):
            self._room.put(True)
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
        self._closed = True
        self._stop()
        self._ahead_of(RuntimeError(CLOSED))
        if self._reader.ident is not None:
            self._reader.join()
        self._workers.shutdown()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        if self._reader.ident is None:
            raise RuntimeError("the prefetcher was never entered: use it in a with statement")
        if self._stopped:
            raise RuntimeError(CLOSED) if self._closed else StopIteration
        outcome = self._ahead.get().get()
        if self._closed:
            raise RuntimeError(CLOSED)
        try:
            result = outcome()
        except BaseException:
            self._stop()
            raise
        self._room.put(True)
        return result

    def _stop(self) -> None:
        self._stopped = True
        self._room.put(False)

    def _read(self) -> None:
        end: BaseException = StopIteration()
        try:
            iterator = iter(self._iterable)
            # A generator's clean-up must run here, not wherever the garbage collector finds it.
            with closing(iterator) if isinstance(iterator, GeneratorType) else nullcontext():
                while self._room.get() and not self._stopped and (source := next(iterator, END)) is not END:
                    box: SimpleQueue[Callable[[], Result]] = SimpleQueue()
                    self._ahead.put(box)
                    self._workers.submit(self._fill, box, source)  # type: ignore[arg-type]  # END is handled above
        except BaseException as caught:  # noqa: BLE001 - not swallowed: the consumer raises it
            end = caught
        self._ahead_of(end)

    def _fill(self, box: SimpleQueue[Callable[[], Result]], source: Source) -> None:
        """Put the outcome of an item into its box."""
        try:
            if self._stopped:
                raise RuntimeError(CLOSED)  # noqa: TRY301 - as any other outcome
            result = self._transform(source)
            box.put(lambda: result)
        except BaseException as error:  # noqa: BLE001 - not swallowed: the consumer raises it
            box.put(_raising(error))

    def _ahead_of(self, error: BaseException) -> None:
        """Let the consumer get an error behind what is there."""
        box: SimpleQueue[Callable[[], Result]] = SimpleQueue()
        box.put(_raising(error))
        self._ahead.put(box)


def _raising(error: BaseException) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail
