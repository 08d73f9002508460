"""What the threads of a run are doing, for whoever measures it. A run that nobody watches pays nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

END = object()


class Watch(Protocol):
    """A listener that is called from several threads at once."""

    def doing(self, what: str) -> AbstractContextManager[object]:
        """The calling thread does `what` until the context ends."""
        ...

    def tracked(self, objects: int) -> None:
        """A frame has been tracked, with that many objects."""
        ...


def doing(watch: Watch | None, what: str) -> AbstractContextManager[object]:
    """`watch.doing`, or nothing."""
    return nullcontext() if watch is None else watch.doing(what)


def watched_items(watch: Watch | None, items: Iterable[Item], what: str) -> Iterable[Item]:
    """The same items; getting each one is `what`. The iterator is closed with the generator."""
    return items if watch is None else _each(watch, items, what)


def watched_call(watch: Watch | None, call: Callable[[Item], Result], what: str) -> Callable[[Item], Result]:
    """The same function, whose calls are `what`."""
    if watch is None:
        return call

    def watched(item: Item) -> Result:
        with watch.doing(what):
            return call(item)

    return watched


def _each(watch: Watch, items: Iterable[Item], what: str) -> Iterator[Item]:
    iterator = iter(items)
    try:
        while True:
            with watch.doing(what):
                item = next(iterator, END)
            if item is END:
                return
            yield item  # type: ignore[misc]  # END is handled above
    finally:
        if hasattr(iterator, "close"):
            iterator.close()
