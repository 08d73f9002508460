"""What every thread of a run did when: spans, how far they overlap, and the tracker's time by objects."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ...runtime.arrays import Array, Arrays, SimpleArrays
from ...runtime.backend import Backend, BringsTracker, Runner
from ...runtime.contract import NetworkName, network_specs
from ...runtime.pipeline.watched_backend import WatchedBackend
from .latency import Latency

STAGE_PREFIX = "stage "
TRACKED = "tracked frame"
WAIT = "wait for frames"
AHEAD = ("decode", "prepare")
"""What other threads do ahead of the networks."""

Interval = tuple[float, float]

Transfer = TypeVar("Transfer", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Span:
    """What a thread did from `start_s` to `end_s`; `objects` where tracked objects are the batch."""

    what: str
    thread: str
    start_s: float
    end_s: float
    is_network: bool = False
    objects: int | None = None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end_s - self.start_s

    @property
    def interval(self) -> Interval:
        """From and to."""
        return self.start_s, self.end_s


class SpanRecorder:
    """Implements `runtime.watch.Watch`; `spans` in the order in which they ended, from when it was made."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._origin_s = clock()
        self._last_tracked_s = 0.0
        self.spans: list[Span] = []

    def now_s(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._origin_s

    @contextmanager
    def doing(self, what: str, *, is_network: bool = False, objects: int | None = None) -> Iterator[None]:
        """See `runtime.watch.Watch`."""
        start_s = self.now_s()
        if what.startswith(STAGE_PREFIX):
            self._last_tracked_s = start_s
        try:
            yield
        finally:
            self._add(what, start_s, is_network, objects)

    def tracked(self, objects: int) -> None:
        """See `runtime.watch.Watch`: the frame took since the one before, or since its stage began."""
        self._add(TRACKED, self._last_tracked_s, False, objects)
        self._last_tracked_s = self.now_s()

    def _add(self, what: str, start_s: float, is_network: bool, objects: int | None) -> None:
        thread = threading.current_thread().name
        self.spans.append(Span(what, thread, start_s, self.now_s(), is_network, objects))


class TracedBackend(WatchedBackend):
    """A backend whose network calls and transfers are recorded, each waited for."""

    def __init__(self, backend: Backend, recorder: SpanRecorder) -> None:
        super().__init__(backend, lambda *_: None)
        self._recorder = recorder
        self.arrays = TracedArrays(backend.arrays, recorder)
        if isinstance(backend, BringsTracker):
            # It runs no networks that could be seen.
            self.tracker = backend.tracker

    def runner(self, network: NetworkName) -> Runner:
        """A runner whose calls are recorded with the objects in them."""
        run, synchronize = self._backend.runner(network), self.arrays.synchronize
        by_object = [
            tensor.name for tensor in network_specs(self.model)[network].inputs if tensor.axes[:1] == ("O",)
        ]

        def call(inputs: Mapping[str, Array | NDArray[np.generic]]) -> dict[str, Array]:
            objects = int(inputs[by_object[0]].shape[0]) if by_object else None
            synchronize()
            with self._recorder.doing(network, is_network=True, objects=objects):
                outputs = run(inputs)
                synchronize()
            return outputs

        return call


class TracedArrays(SimpleArrays):
    """Arrays whose transfers and copies are recorded, each waited for."""

    def __init__(self, arrays: Arrays, recorder: SpanRecorder) -> None:
        self._recorder = recorder
        self.unstack, self.nbytes = arrays.unstack, arrays.nbytes
        self.free_bytes, self.synchronize = arrays.free_bytes, arrays.synchronize
        self.upload = self._waited("upload", arrays.upload)
        self.from_host = self._waited("upload", arrays.from_host)
        self.download = self._waited("download", arrays.download)
        self.to_host = self._waited("download", arrays.to_host)
        self.stack = self._waited("stack", arrays.stack)
        self._between = self._waited("interpolate", arrays.between)

    def between(self, first: Array, last: Array, shares: Sequence[float]) -> list[Array]:
        """See `Arrays.between`."""
        found: list[Array] = self._between(first, last, shares)
        return found

    def _waited(self, what: str, do: Transfer) -> Transfer:
        def call(*given: Any) -> Any:  # noqa: ANN401 - arrays of any backend
            self.synchronize()
            with self._recorder.doing(what):
                done = do(*given)
                self.synchronize()
            return done

        return cast(Transfer, call)


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time without overlaps, in order."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def length(intervals: Iterable[Interval]) -> float:
    """Seconds that any of them covers."""
    return sum(end - start for start, end in union(intervals))


def common(a: Iterable[Interval], b: Iterable[Interval]) -> float:
    """Seconds that both cover."""
    first, second = list(a), list(b)
    return length(first) + length(second) - length([*first, *second])


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityTime:
    """All spans of one kind: their seconds added up, and the seconds in which a network ran as well.

    `under_networks_s` counts time in which several threads did it once; None for what networks wait for.
    """

    what: str
    calls: int
    seconds: float
    threads: int
    under_networks_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How much of the work ahead of the networks, decoding and preparing, was hidden.

    `ahead_s` is the time in which any thread did it, `hidden_s` the part of it in which a network ran too,
    `waited_s` what the networks' thread waited for frames. `busy_threads` is the mean number of threads
    that did something, over `wall_s`.
    """

    wall_s: float
    ahead_s: float
    hidden_s: float
    waited_s: float
    busy_threads: float

    @property
    def hidden_share(self) -> float | None:
        """Of the time ahead; None where nothing was prepared."""
        return self.hidden_s / self.ahead_s if self.ahead_s else None


@dataclass(frozen=True, slots=True)
class TrackerTime:
    """Seconds of every tracked frame with that many objects, prompts and bookkeeping included."""

    objects: int
    frames: Latency


def _of(spans: Iterable[Span], *whats: str) -> list[Span]:
    return [span for span in spans if span.what in whats]


def _is_work(span: Span) -> bool:
    """Whether a span is something done, not a frame around others and not a wait."""
    return span.what not in (TRACKED, WAIT) and not span.what.startswith(STAGE_PREFIX)


def activities(spans: Sequence[Span]) -> tuple[ActivityTime, ...]:
    """Everything but the networks by kind, in the order of a frame's way."""
    networks = [span.interval for span in spans if span.is_network]
    found: dict[str, list[Span]] = {}
    for span in spans:
        if span.what == WAIT or (_is_work(span) and not span.is_network):
            found.setdefault(span.what, []).append(span)
    order = {what: place for place, what in enumerate((*AHEAD, WAIT, "upload", "stack", "download", "write"))}
    return tuple(
        ActivityTime(
            what=what,
            calls=len(found[what]),
            seconds=sum(span.seconds for span in found[what]),
            threads=len({span.thread for span in found[what]}),
            under_networks_s=common((span.interval for span in found[what]), networks)
            if what in AHEAD
            else None,
        )
        for what in sorted(found, key=lambda what: order.get(what, len(order)))
    )


def overlap(spans: Sequence[Span]) -> Overlap:
    """How far the threads of a run overlapped."""
    ahead = [span.interval for span in _of(spans, *AHEAD)]
    networks = [span.interval for span in spans if span.is_network]
    work: dict[str, list[Interval]] = {}
    for span in spans:
        if _is_work(span):
            work.setdefault(span.thread, []).append(span.interval)
    wall_s = max(span.end_s for span in spans) - min(span.start_s for span in spans) if spans else 0.0
    return Overlap(
        wall_s=wall_s,
        ahead_s=length(ahead),
        hidden_s=common(ahead, networks),
        waited_s=sum(span.seconds for span in _of(spans, WAIT)),
        busy_threads=sum(map(length, work.values())) / wall_s if wall_s else 0.0,
    )


def tracker_times(spans: Iterable[Span]) -> tuple[TrackerTime, ...]:
    """The tracked frames by their number of objects, ascending; frames without objects left out."""
    samples: dict[int, list[float]] = {}
    for span in _of(spans, TRACKED):
        if span.objects:
            samples.setdefault(span.objects, []).append(span.seconds)
    return tuple(TrackerTime(objects, Latency(tuple(taken))) for objects, taken in sorted(samples.items()))
