"""Work in a process of its own: a crash or a hang of a library ends that process, and is told."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GmosError
from ..interruption import answered_after
from ..runtime.files.atomic_file import replaced_at_end, writing

LOG_CHARACTERS = 4000
"""Of the end of what a child printed, which a report shows."""

REFUSED_STATUS = 2
"""Exit status of a child whose work was refused with a `GmosError`: the message is all that need be told."""

HUNG_STATUS = 1
"""Exit status of Python's watchdog."""

END_VARIABLE = "GMOS_CHILD_END_S"
"""In a child's environment: when its time is over, on the monotonic clock, which all processes share."""

GRACE_S, KILLED_S = 2.0, 10.0
"""What a child has to say where it hangs before it is killed, and what the system has to end it: a driver that hangs
itself may hold it for ever, and is not waited for."""

THREADS = re.compile(r"^(Timeout \(|Fatal Python error: |Windows fatal exception: )", re.MULTILINE)
"""How it begins what Python prints of its threads at a time-out, and in a crash."""

CALL = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
"""A line of it, the innermost call of a thread first. Threads have an empty line between them."""

CRASHED_THREAD = "Current thread"
"""At a time-out there is none; then the main thread comes last."""

REPORT_FILE, LOG_FILE = "report.json", "log.txt"
"""What a child leaves in its folder: what it reported last, and all that it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRun:
    """What became of a child.

    `value` is what it reported last, JSON; None where it reported nothing. `fault` says in words how it ended if it
    did not end well, else it is empty. `log` is the end of what it printed. `stopped`: it was ended at its limit.
    """

    value: Any
    fault: str
    seconds: float
    log: str
    stopped: bool = False


def run_child(
    command: Sequence[str | Path],
    *,
    limit_s: float,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> ChildRun:
    """Run a program of this project that reports through `child_main`, and end it when its time is over.

    A child ends by itself at its limit as well: also where this process was killed, or is not run any more.

    Args:
        command: the program and its arguments, after this interpreter; the place of its report is added to them.
        limit_s: seconds that it may take.
        environment: variables to set beside this process's own.
        folder: where its report and all that it printed stay; what is there is replaced. None: nowhere.
    """
    # What lies in the working directory is not imported in a library's place (from Python 3.11 on).
    safe = {"PYTHONSAFEPATH": "1"} if command[0] == "-m" else {}
    with _place(folder) as place:
        report, log = place / REPORT_FILE, place / LOG_FILE
        start = time.monotonic()
        with log.open("wb") as out:
            child: subprocess.Popen[bytes] | None = None
            try:
                # A signal in the midst of it would leave a child that nobody knows.
                with answered_after():
                    child = subprocess.Popen(  # noqa: S603 - a program of this project
                        [sys.executable, *map(str, command), str(report)],
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **safe, END_VARIABLE: str(start + limit_s), **(environment or {})},
                        # A group of its own: what it has started ends with it.
                        start_new_session=True,
                    )
                status: int | None = child.wait(limit_s + GRACE_S)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                ended = child is None or _end(child)
        seconds = time.monotonic() - start
        value, text = kept_report(place), log.read_bytes().decode(errors="replace").strip()
    found = THREADS.search(text)
    printed, threads = (text, "") if found is None else (text[: found.start()].strip(), text[found.start() :])
    stopped = status is None or (status == HUNG_STATUS and bool(threads) and seconds >= limit_s)
    fault = _fault(None if stopped else status, limit_s, printed)
    if stopped or (status or 0) < 0:
        fault += _place_in(threads)
    if not ended:
        fault += f"; the system did not end it within {KILLED_S:.0f} s: its driver hangs, restart the machine"
    return ChildRun(value=value, fault=fault, seconds=seconds, log=text[-LOG_CHARACTERS:], stopped=stopped)


def kept_report(folder: Path) -> Any:  # noqa: ANN401 - JSON
    """What a child that left its files in a folder reported last; None where it reported nothing."""
    try:
        return json.loads((folder / REPORT_FILE).read_bytes())
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    """The folder, emptied of what another child left; a temporary one for None."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="gmos-child-", ignore_cleanup_errors=True) as made:
            yield Path(made)
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (REPORT_FILE, LOG_FILE):
            (folder / name).unlink(missing_ok=True)
    yield folder


def child_main(work: Callable[[Callable[[Any], None]], None], report: Path) -> int:
    """What such a program does; returns its exit status.

    `work` gets a function that reports a JSON value, as often as it likes: the last one counts, after a crash too.
    """

    def tell(value: object) -> None:
        with replaced_at_end(report) as temporary:
            temporary.write_text(json.dumps(value), encoding="utf-8")

    end = os.environ.get(END_VARIABLE)
    if end is not None:
        faulthandler.enable()
        # A thread that needs nothing of Python: a library that keeps the interpreter to itself is seen too.
        faulthandler.dump_traceback_later(max(float(end) - time.monotonic(), 1e-3), exit=True)
    try:
        work(tell)
    except GmosError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED_STATUS
    finally:
        faulthandler.cancel_dump_traceback_later()
    return 0


def _end(child: subprocess.Popen[bytes]) -> bool:
    """Kill what is left of a child and of what it has started; whether it has ended."""
    if sys.platform != "win32":
        # Unless all of it has ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    elif child.poll() is None:
        child.kill()
    try:
        child.wait(KILLED_S)
    except subprocess.TimeoutExpired:
        # Nobody waits for it any more, and Python need not warn of that.
        child.returncode = -int(signal.SIGTERM)
        return False
    return True


def _place_in(threads: str) -> str:
    """Where the thread was that crashed, or else the main thread, in words."""
    blocks = [block for block in threads.split("\n\n") if CALL.search(block)]
    blocks = [block for block in blocks if CRASHED_THREAD in block] or blocks[-1:]
    found = CALL.search(blocks[0]) if blocks else None
    return "" if found is None else f"; it was in {found[3]}, {Path(found[1]).name} line {found[2]}"


def _fault(status: int | None, limit_s: float, log: str) -> str:
    last = log.splitlines()[-1] if log else "it printed nothing"
    printed = f"last it printed: {last}" if log else last
    if status == 0:
        return ""
    if status is None:
        return f"stopped after {limit_s:.0f} s, its limit; {printed}"
    if status == REFUSED_STATUS:
        return last
    if status < 0:
        return f"crashed with {signal.Signals(-status).name}; {printed}"
    return f"failed: {last}"
