"""A worker of this machine: a process that runs the sequences it is given, and ends with whoever started it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from ..errors import GmosError, MachineError, printable
from ..interruption import Interrupted, answer_signals, clear_up_first
from .batch import run_one
from .listing import Item
from .sequence_runner import NetworksError, RunSettings, SequenceRunner
from .statuses import is_the_machines


def work(program: str, number: int, settings: RunSettings, connection: Connection, level: int) -> None:
    """What the process does until its connection ends.

    It sends `("ready",)`, then for each `Item` it gets `("ended", summary, backend, load_s)`, or `("machine", reason,
    restarts)` and ends.
    """
    # Ctrl-C goes to all processes of a terminal; whoever started this one ends it.
    for name in ("SIGINT", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    answer_signals(program, keeps_results=True)
    clear_up_first()
    log = WorkerLog(program, number)
    package = logging.getLogger(__package__.partition(".")[0] if __package__ else "gmos_deploy")
    package.handlers, package.level = [log], level
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with SequenceRunner(settings) as runner:
            connection.send(("ready",))
            while True:
                item = connection.recv()
                if item is None:
                    return
                log.sequence = item.name
                connection.send(_answer(item, runner))
                log.sequence = ""
    except (EOFError, BrokenPipeError, Interrupted):
        return
    except MachineError as error:
        connection.send(("machine", str(error), error.restarts))
    except GmosError as error:
        connection.send(("machine", str(error), False))


def _answer(item: Item, runner: SequenceRunner) -> tuple[Any, ...]:
    try:
        summary = run_one(item, runner, goes_on=True)
    except NetworksError as error:
        raise MachineError(str(error)) from error
    except MachineError:
        raise
    except (OSError, RuntimeError) as error:
        if not is_the_machines(error):
            raise
        return ("machine", f"{type(error).__name__}: {error}", True)
    return ("ended", summary, runner.description, runner.load_s)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class WorkerLog(logging.StreamHandler[Any]):
    """Lines of stderr that carry the program, the worker and its sequence."""

    def __init__(self, program: str, number: int) -> None:
        super().__init__()
        self.sequence = ""
        self._before = f"{program}: worker {number}: "

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Handler`."""
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        said = record.getMessage()
        if record.exc_info:
            said += "\n" + logging.Formatter().formatException(record.exc_info)
        of = f"{self.sequence}: " if self.sequence and not said.startswith(f"{self.sequence}: ") else ""
        return self._before + level + printable(of + said)
