"""Workers of this machine, each a process of its own with its share of it; one that dies is started anew."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from ..errors import MachineError
from .dispatch import Died, Ended, Lifelines
from .listing import Item
from .shares import Share
from .worker_process import work

logger = logging.getLogger(__name__)

PROGRAM = "gmos-run"
END_S = 10.0
"""A worker that is ended may clear up so long."""

OUT_OF_MEMORY_SIGNAL = 9


@dataclass(slots=True, kw_only=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    ready: bool = False
    item: Item | None = None


class LocalWorkers:
    """Processes of this machine. A context manager.

    Args:
        shares: of the workers, one each.
    """

    def __init__(self, shares: Sequence[Share]) -> None:
        self._shares = shares
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._lifelines = Lifelines(len(shares))

    def __enter__(self) -> LocalWorkers:
        try:
            for k in range(len(self._shares)):
                self._workers.append(self._start(k))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def idle(self) -> list[int]:
        """See `dispatch.Pool`."""
        return [k for k, worker in enumerate(self._workers) if worker.ready and worker.item is None]

    def give(self, worker: int, item: Item) -> None:
        """See `dispatch.Pool`."""
        known = self._workers[worker]
        known.item = item
        # One that has just died says so by itself.
        with suppress(OSError):
            known.connection.send(item)

    def events(self, timeout_s: float) -> list[Ended | Died]:
        """See `dispatch.Pool`."""
        found: list[Ended | Died] = []
        heard = wait([worker.connection for worker in self._workers], timeout_s)
        for k in [k for k, worker in enumerate(self._workers) if worker.connection in heard]:
            event = self._heard(k)
            if event is not None:
                found.append(event)
        return found

    def close(self) -> None:
        """See `dispatch.Pool`; they clear up first."""
        for worker in self._workers:
            with suppress(OSError):
                if worker.ready and worker.item is None:
                    worker.connection.send(None)
                else:
                    worker.process.terminate()
        deadline = time.monotonic() + END_S
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
            worker.process.close()
        self._workers.clear()

    def _start(self, k: int) -> _Worker:
        share = self._shares[k]
        # Windows has a type of its own for them.
        ends: tuple[Any, Any] = self._context.Pipe()
        ours, theirs = ends
        level = logging.getLogger("gmos_deploy").level
        process = self._context.Process(
            target=work, args=(PROGRAM, k, share.settings, theirs, level), name=f"{PROGRAM}-{k}", daemon=True
        )
        with environment(share.environment):
            process.start()
        theirs.close()
        return _Worker(process=process, connection=ours)

    def _heard(self, k: int) -> Ended | Died | None:
        worker = self._workers[k]
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            return self._died(k)
        kind, *rest = message
        if kind == "ready":
            worker.ready = True
            return None
        if kind == "machine":
            reason, restarts = rest
            if not restarts:
                raise MachineError(reason)
            return self._died(k, reason)
        summary, backend, load_s = rest
        worker.item = None
        self._lifelines.done()
        return Ended(worker=k, summary=summary, backend=backend, load_s=load_s)

    def _died(self, k: int, reason: str | None = None) -> Died:
        worker = self._workers[k]
        worker.process.join(END_S)
        told = reason or _ending(worker.process.exitcode)
        worker.connection.close()
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
        self._workers[k] = self._start(k)
        self._lifelines.died(told)
        return Died(worker=k, reason=told)


def _ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "it hangs"
    if code >= 0:
        return f"exit status {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"{name}, as when memory runs out" if -code == OUT_OF_MEMORY_SIGNAL else name
    return f"signal {-code}"


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables that a process has which is started in here: libraries read them before its first line."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
