"""Work in a process of its own: a crash or a hang of a library ends that process, and is told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GmosError
from ..runtime.files.atomic_file import replaced_at_end

LOG_BYTES = 4000
"""Of the end of what a child printed, which a report shows."""

REFUSED_STATUS = 2
"""Exit status of a child whose work was refused with a `GmosError`: the message is all that need be told."""


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
) -> ChildRun:
    """Run a program of this project that reports through `child_main`, and end it when its time is over.

    Args:
        command: the program and its arguments, after this interpreter; the place of its report is added to them.
        limit_s: seconds that it may take.
        environment: variables to set beside this process's own.
    """
    # What lies in the working directory is not imported in a library's place (from Python 3.11 on).
    safe = {"PYTHONSAFEPATH": "1"} if command[0] == "-m" else {}
    with tempfile.TemporaryDirectory(prefix="gmos-child-", ignore_cleanup_errors=True) as folder:
        report, log = Path(folder) / "report.json", Path(folder) / "log"
        start = time.monotonic()
        with log.open("wb") as out:
            child = subprocess.Popen(  # noqa: S603 - a program of this project
                [sys.executable, *map(str, command), str(report)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **safe, **(environment or {})},
                # A group of its own: what it has started ends with it.
                start_new_session=True,
            )
            try:
                status: int | None = child.wait(limit_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _end(child)
        seconds = time.monotonic() - start
        try:
            value = json.loads(report.read_bytes())
        except (OSError, ValueError):
            value = None
        text = log.read_bytes()[-LOG_BYTES:].decode(errors="replace").strip()
    fault = _fault(status, limit_s, text)
    return ChildRun(value=value, fault=fault, seconds=seconds, log=text, stopped=status is None)


def child_main(work: Callable[[Callable[[Any], None]], None], report: Path) -> int:
    """What such a program does; returns its exit status.

    `work` gets a function that reports a JSON value, as often as it likes: the last one counts, after a crash too.
    """

    def tell(value: object) -> None:
        with replaced_at_end(report) as temporary:
            temporary.write_text(json.dumps(value), encoding="utf-8")

    try:
        work(tell)
    except GmosError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED_STATUS
    return 0


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a child and of what it has started."""
    if sys.platform != "win32":
        # Unless all of it has ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    elif child.poll() is None:
        child.kill()
    child.wait()


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
