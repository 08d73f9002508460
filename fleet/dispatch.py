"""Deals sequences out to workers that may die: each is tried again elsewhere, and given up after three deaths."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import GmosError, MachineError
from .batch import Turns
from .claims import MOST_DEATHS
from .listing import Item
from .progress import ListProgress
from .statuses import SequenceSummary
from .summary import Summary

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds after which a dispatcher that hears nothing looks for more work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A worker has ended a sequence; `backend` and `load_s` are of its networks."""

    worker: int
    summary: SequenceSummary
    backend: str | None = None
    load_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A worker has died, and another one is started in its place. `where` it was, and why in words."""

    worker: int
    reason: str


class Pool(Protocol):
    """Workers with numbers from 0 on."""

    def idle(self) -> Sequence[int]:
        """Those that may be given a sequence."""
        ...

    def give(self, worker: int, item: Item) -> None:
        """Have a worker run a sequence."""
        ...

    def events(self, timeout_s: float) -> Sequence[Ended | Died]:
        """What has happened; waits for it so long.

        Raises:
            MachineError: no worker can run anything.
        """
        ...

    def close(self) -> None:
        """End all of them, at once, whatever they do."""
        ...


@dataclass(slots=True, kw_only=True)
class _Tried:
    """A sequence and its deaths: on which worker, and why."""

    item: Item
    workers: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class Dispatcher:
    """Runs a list on a pool.

    Args:
        turns: gives out the sequences.
        pool: of workers; closed by whoever opened it.
        summary: hears of every sequence as it ends.
        progress: too.
        stop_on_error: end with the first sequence that fails.
    """

    def __init__(
        self,
        turns: Turns,
        pool: Pool,
        summary: Summary,
        progress: ListProgress,
        *,
        stop_on_error: bool = False,
    ) -> None:
        self._turns = turns
        self._pool = pool
        self._summary = summary
        self._progress = progress
        self._stop_on_error = stop_on_error
        self._again: deque[_Tried] = deque()
        self._in_hand: dict[int, _Tried] = {}
        self._over = False

    def run(self) -> None:
        """Until every sequence has ended.

        Raises:
            GmosError: no worker can run anything, or the first sequence that fails where that ends it.
        """
        while True:
            wait_s = self._deal()
            if self._over and not self._in_hand and not self._again:
                return
            for event in self._pool.events(wait_s):
                if isinstance(event, Ended):
                    self._ended(event)
                else:
                    self._died(event)

    def _deal(self) -> float:
        """Give every idle worker something; seconds to wait for events then."""
        for worker in self._pool.idle():
            again = self._another_time(worker)
            if again is not None:
                self._give(worker, again)
                continue
            while not self._over:
                turn = self._turns.take()
                if turn is None:
                    self._over = True
                elif isinstance(turn, float):
                    self._turns.tell_waiting(turn)
                    return turn
                elif isinstance(turn, SequenceSummary):
                    self._tell(turn)
                else:
                    self._give(worker, _Tried(item=turn))
                    break
        return LOOK_S

    def _another_time(self, worker: int) -> _Tried | None:
        """A sequence whose worker died, for another worker if there is one."""
        for tried in self._again:
            elsewhere = [known for known in self._in_hand if known != worker]
            if worker != tried.workers[-1] or not elsewhere:
                self._again.remove(tried)
                return tried
        return None

    def _give(self, worker: int, tried: _Tried) -> None:
        self._in_hand[worker] = tried
        self._pool.give(worker, tried.item)

    def _ended(self, event: Ended) -> None:
        tried = self._in_hand.pop(event.worker)
        if event.backend is not None:
            self._summary.facts.backend, self._summary.facts.load_s = event.backend, event.load_s
        self._turns.ended(tried.item, event.summary)
        self._tell(event.summary)

    def _died(self, event: Died) -> None:
        tried = self._in_hand.pop(event.worker, None)
        if tried is None:
            logger.warning("worker %d died (%s)", event.worker, event.reason)
            return
        tried.workers.append(event.worker)
        tried.reasons.append(event.reason)
        logger.warning("%s: worker %d died (%s)", tried.item.name, event.worker, event.reason)
        if len(tried.reasons) < MOST_DEATHS:
            self._again.append(tried)
            return
        why = "; ".join(dict.fromkeys(tried.reasons))
        failed = SequenceSummary.of_item(tried.item, "failed", f"it killed {MOST_DEATHS} workers ({why})")
        logger.error("%s: %s", failed.name, failed.error)
        self._turns.ended(tried.item, failed)
        self._tell(failed)

    def _tell(self, summary: SequenceSummary) -> None:
        self._summary.add(summary)
        self._progress.ended(summary)
        if self._stop_on_error and summary.status == "failed":
            raise GmosError(f"{summary.name}: {summary.error}")


class Lifelines:
    """Ends a run whose workers die one after the other with nothing done in between: it is not the videos."""

    def __init__(self, workers: int) -> None:
        self._most = MOST_DEATHS * max(workers, 2)
        self._deaths = 0

    def done(self) -> None:
        """A worker has ended a sequence."""
        self._deaths = 0

    def died(self, reason: str) -> None:
        """One has died.

        Raises:
            MachineError: too many have.
        """
        self._deaths += 1
        if self._deaths >= self._most:
            raise MachineError(
                f"{self._deaths} workers died one after the other with nothing done in between ({reason}); expected "
                "workers that live: try it with fewer of them, which have more memory each"
            )
