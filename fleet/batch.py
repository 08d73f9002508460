"""A list of sequences in this process: one after the other, on to the next after a failure."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial

from ..errors import GmosError
from .claims import FIRST_WAIT_S, Claims, waits
from .listing import Item, Listing
from .progress import ListProgress
from .sequence_runner import ELSEWHERE, SequenceRunner
from .statuses import Failure, SequenceSummary, answer_of
from .summary import Summary

logger = logging.getLogger(__name__)


class Turns:
    """Whose turn it is on a list that others may share.

    Args:
        items: in the order in which they are tried.
        runner: knows where results lie.
        claims: of this process.
    """

    def __init__(self, items: Iterable[Item], runner: SequenceRunner, claims: Claims) -> None:
        self._fresh: Iterator[Item] = iter(items)
        self._held: deque[Item] = deque()
        self._missed = 0
        self._runner = runner
        self._claims = claims
        self._waits = waits()

    def take(self) -> Item | SequenceSummary | float | None:
        """What comes next.

        Returns:
            A sequence, claimed, for which `ended` is to be called; or what became of one that needs no work; or
            seconds to wait, where others have all that is left in hand; None at the end.
        """
        while True:
            item = next(self._fresh, None)
            if item is None:
                if not self._held:
                    return None
                if self._missed >= len(self._held):
                    self._missed = 0
                    return next(self._waits)
                item = self._held.popleft()
            taken = self._claims.take(item.name)
            if taken == "held":
                self._held.append(item)
                self._missed += 1
                continue
            self._missed, self._waits = 0, waits()
            if taken != "taken":
                return SequenceSummary.of_item(item, "failed", f"in another process: {taken}")
            if self._runner.finished_since(item.name, self._claims.since_ns):
                self._claims.release(item.name)
                summary = SequenceSummary.of_item(item, "skipped")
                summary.notes.append(ELSEWHERE)
                return summary
            return item

    def ended(self, item: Item, summary: SequenceSummary | None = None) -> None:
        """Let go of a sequence; one that failed is not tried by others, but for what was this machine's fault."""
        failed = summary.error if summary is not None and summary.status == "failed" else None
        self._claims.release(item.name, failed=failed)

    def tell_waiting(self, seconds: float) -> None:
        """Say so, the first time that there is nothing to do but to wait."""
        if seconds == FIRST_WAIT_S:
            logger.info("%d sequences are in the hands of other processes: waiting for them", len(self._held))


def refuse_existing(listing: Listing, runner: SequenceRunner, claims: Claims) -> None:
    """Say at once that a list has results already, where these are neither resumed nor replaced.

    Raises:
        GmosError: with the first of them, and how many there are.
    """
    if runner.settings.existing != "error":
        return
    names = {item.name for item in listing.items}
    ending = f".{runner.model.variant}.json"
    records = runner.results("x").record_path.parent.glob(f"*{ending}")
    before = sorted(
        path.name.removesuffix(ending)
        for path in records
        if path.name.removesuffix(ending) in names and path.stat().st_mtime_ns <= claims.since_ns
    )
    if before:
        raise GmosError(
            f"{runner.settings.save_dir} has results of {before[0]}"
            + (f" and {len(before) - 1} more" if len(before) > 1 else "")
            + f" of these {len(names)} sequences already; use --resume to keep finished sequences, --overwrite to "
            "replace them, or another --save-dir"
        )


def run_batch(
    listing: Listing,
    runner: SequenceRunner,
    claims: Claims,
    summary: Summary,
    progress: ListProgress,
    *,
    stop_on_error: bool = False,
) -> None:
    """Run a list, and tell of every sequence as it ends.

    Raises:
        GmosError: the machine or the networks fail; or the first sequence that does, where it is `alone` or
            `stop_on_error`.
    """
    turns = Turns(listing.items, runner, claims)
    while (turn := turns.take()) is not None:
        if isinstance(turn, float):
            turns.tell_waiting(turn)
            time.sleep(turn)
            continue
        if isinstance(turn, SequenceSummary):
            ended = turn
        else:
            try:
                ended = run_one(turn, runner, goes_on=not (listing.alone or stop_on_error))
            except Exception as error:
                turns.ended(turn)
                _tell(summary, runner, SequenceSummary.of_item(turn, "failed", str(error)))
                raise
            turns.ended(turn, ended)
        _tell(summary, runner, ended)
        progress.ended(ended)
        if stop_on_error and ended.status == "failed":
            raise GmosError(f"{ended.name}: {ended.error}")


def run_one(item: Item, runner: SequenceRunner, *, goes_on: bool) -> SequenceSummary:
    """Run a sequence; what is wrong with it is in its summary where a run goes on, else raised."""
    work = partial(runner.run, item)
    found = answer_of(item.name, work) if goes_on else work()
    if isinstance(found, Failure):
        logger.error("%s: %s", item.name, found.reason)
        return SequenceSummary.of_item(item, "failed", found.reason)
    return found


def _tell(summary: Summary, runner: SequenceRunner, ended: SequenceSummary) -> None:
    summary.facts.backend, summary.facts.load_s = runner.description, runner.load_s
    summary.add(ended)
