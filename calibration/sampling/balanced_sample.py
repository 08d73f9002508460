"""A bounded sample of a stream in which rare kinds of items are kept as long as common ones give way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An item of the sample: its number in the stream, its kind, and its size in bytes."""

    index: int
    kind: Hashable
    size: int


class BalancedSample:
    """Chooses at most `limit` items of at most `max_bytes` together, spread evenly over their kinds.

    Class-balancing reservoir sampling (Chrysakis and Moens, 2020): an item of a kind that has fewer than the
    most frequent one takes a place from that one; within a kind every item is equally likely to stay. The
    choice depends on nothing but the seed and the stream.
    """

    def __init__(self, limit: int, max_bytes: int, seed: int) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._random = np.random.default_rng(seed)
        self._seen: Counter[Hashable] = Counter()
        self._full: set[Hashable] = set()
        self._kept: list[Kept] = []

    @property
    def kept(self) -> list[Kept]:
        """The sample, in the order of the stream."""
        return sorted(self._kept, key=lambda item: item.index)

    @property
    def seen(self) -> int:
        """How many items there were."""
        return sum(self._seen.values())

    def offer(self, kind: Hashable, size: int) -> tuple[Kept | None, list[Kept]]:
        """Decide about the next item of the stream.

        Returns:
            The item if it is kept, and those that have to go for it.
        """
        item = Kept(index=self.seen, kind=kind, size=size)
        self._seen[kind] += 1
        if size > self._max_bytes:
            return None, []
        gone: list[Kept] = []
        if not self._fits(size):
            counts = Counter(kept.kind for kept in self._kept)
            most = max(counts.values())
            # A kind that was among the most frequent ones does not grow any more.
            self._full |= {name for name, count in counts.items() if count == most}
            if self._random.random() >= self._chance(kind, counts[kind], most):
                return None, []
            if counts[kind] and kind in self._full:
                gone.append(self._take(kind))
            while not self._fits(size):
                gone.append(self._take(self._most_frequent()))
        self._kept.append(item)
        return item, gone

    def _chance(self, kind: Hashable, count: int, most: int) -> float:
        """How likely an item of a kind with `count` in the sample gets a place, where `most` is the greatest count."""
        if kind in self._full and count:
            return count / self._seen[kind]
        if most == 1:
            # More kinds than places: each is as likely to have one, and each item of a kind.
            return len(self._kept) / len(self._seen) / self._seen[kind]
        return 1.0

    def _most_frequent(self) -> Hashable:
        counts = Counter(kept.kind for kept in self._kept)
        most = max(counts.values())
        names = [name for name, count in counts.items() if count == most]
        return names[int(self._random.integers(len(names)))]

    def _fits(self, size: int) -> bool:
        held = sum(kept.size for kept in self._kept)
        return len(self._kept) < self._limit and held + size <= self._max_bytes

    def _take(self, kind: Hashable) -> Kept:
        places = [i for i, kept in enumerate(self._kept) if kept.kind == kind]
        return self._kept.pop(places[int(self._random.integers(len(places)))])
