"""Tries hostile files on what reads them, each class in a process of its own that is watched; prints what came of it.

python tests/hostile/try_all.py [--seed 21] [--scale 1] [--only WORD] [--keep DIR]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

LIMIT_S, LIMIT_WALL_S = 10, 60
"""Processor seconds that a case may take, and seconds by the clock: waiting takes none of the first."""

LIMIT_BYTES = 2 << 30
"""Of memory beyond what the process has before its first case."""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
STARTS = (
    "subprocess.Popen",
    "os.fork",
    "os.forkpty",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.spawn",
)
CHANGES = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
)
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")


class Watch:
    """Notes what Python does that a reader of files has no reason to do."""

    def __init__(self, inside: Path) -> None:
        self._inside = os.path.realpath(inside)
        self.seen: list[str] = []
        self.on = False
        sys.addaudithook(self._heard)

    def _heard(self, event: str, values: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in STARTS or event in NETWORK:
            self.seen.append(f"{event} {values!r:.100}")
        elif event in CHANGES or (event == "open" and self._writes(values)):
            path = values[0]
            if isinstance(path, str | bytes | os.PathLike) and not self._allowed(os.fsdecode(path)):
                self.seen.append(f"{event} {values!r:.100}")

    def _writes(self, values: tuple[Any, ...]) -> bool:
        _, mode, flags = values
        return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & WRITES)

    def _allowed(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real == "/dev/null" or real.startswith(self._inside)


class Slow(BaseException):
    """A case that took too long."""


@contextmanager
def limited() -> Iterator[None]:
    """At most so long."""

    def ring(number: int, _: object) -> None:
        raise Slow("processor time" if number == signal.SIGPROF else "time by the clock")

    signal.signal(signal.SIGPROF, ring)
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_WALL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def try_class(trial: Any, folder: Path, random: Random, count: int, keep: Path | None, tell: Any) -> None:
    """All cases of a class; `tell` gets the counts so far, and every fault."""
    from gmos_deploy.errors import GmosError

    watch, path = Watch(folder), folder / "in" / trial.name
    before = resident()
    # Threads take addresses that they never use.
    resource.setrlimit(resource.RLIMIT_AS, (virtual() + 2 * LIMIT_BYTES,) * 2)
    counts: Counter[str] = Counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    for good in filter(None, trial.seeds):
        # A good file that is refused would try nothing but that.
        path.write_bytes(good)
        try:
            trial.read(path)
        except GmosError as error:
            tell({"fault": f"the good file is refused: {error!s:.200}"})
    for number in range(count):
        content = trial.case(random)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        tell({"number": number})
        fault, start = "", time.process_time()
        watch.on = True
        try:
            with limited():
                trial.read(path)
            counts["accepted"] += 1
        except GmosError:
            counts["refused"] += 1
        except Slow as slow:
            fault = f"more than {LIMIT_S} s of {slow}"
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
            last = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__}: {error!s:.200} ({last.filename}:{last.lineno})"
        watch.on = False
        if watch.seen:
            fault = f"{fault} {watch.seen[0]}"
            watch.seen.clear()
        if resident() - before > LIMIT_BYTES:
            fault = f"{fault} {(resident() - before) >> 20} MiB"
        counts["tried"] += 1
        counts["slowest_ms"] = max(counts["slowest_ms"], round(1e3 * (time.process_time() - start)))
        if fault:
            counts["faults"] += 1
            tell({"fault": fault, "number": number})
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{trial.what.replace(' ', '-')}-{number}").write_bytes(content)
    tell({"counts": counts, "mib": (resident() - before) >> 20})


def resident() -> int:
    """Greatest resident memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def virtual() -> int:
    """Addresses in use, in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def in_a_child(trial: Any, folder: Path, random: Random, count: int, keep: Path | None) -> dict[str, Any]:
    """The class in a process of its own: a crash ends that one."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        # What commands print is theirs.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        with os.fdopen(writing, "w", buffering=1) as out:
            try:
                try_class(trial, folder, random, count, keep, lambda what: out.write(json.dumps(what) + "\n"))
            except BaseException as error:  # noqa: BLE001 - the parent is told
                out.write(json.dumps({"fault": f"the trial itself: {error!r:.300}"}) + "\n")
        os._exit(0)
    os.close(writing)
    found: dict[str, Any] = {"what": trial.what, "faults": [], "counts": Counter(), "mib": 0}
    number = None
    with os.fdopen(reading) as lines:
        for line in lines:
            told = json.loads(line)
            number = told.get("number", number)
            if "fault" in told:
                found["faults"].append(f"{trial.what} {number}: {told['fault']}")
            found |= {key: told[key] for key in ("counts", "mib") if key in told}
    _, status = os.waitpid(child, 0)
    if status:
        found["faults"].append(f"{trial.what} {number}: the process ended with {status}")
    return found


def try_all(*, seed: int, scale: float, only: str = "", keep: Path | None = None) -> list[dict[str, Any]]:
    """All classes, or those with a word in their name."""
    logging.getLogger("gmos_deploy").addHandler(logging.NullHandler())
    logging.getLogger("gmos_deploy").propagate = False
    sys.path.insert(0, str(Path(__file__).parent))
    from trials import trials

    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"HOME": name, "XDG_CACHE_HOME": f"{name}/cache", "XDG_CONFIG_HOME": f"{name}/config"}
        os.chdir(folder)
        for trial in trials(folder):
            if only in trial.what:
                random = Random(f"{seed} {trial.what}")
                found.append(in_a_child(trial, folder, random, max(1, round(trial.weight * scale)), keep))
    return found


def table(found: list[dict[str, Any]]) -> str:
    """What came of it, in Markdown."""
    lines = [
        "| files | tried | refused in a line | used | faults | slowest ms | MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        counts = one["counts"]
        numbers = [counts.get(name, 0) for name in ("tried", "refused", "accepted")]
        cells = [one["what"], *numbers, len(one["faults"]), counts.get("slowest_ms", 0), one["mib"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    total = sum(one["counts"].get("tried", 0) for one in found)
    return "\n".join([*lines, "", f"{total} files, {sum(len(one['faults']) for one in found)} faults"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many files")
    parser.add_argument("--only", default="", help="classes with this word in their name")
    parser.add_argument("--keep", type=Path, help="where files with faults are kept")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args()
    keep = given.keep.absolute() if given.keep else None
    found = try_all(seed=given.seed, scale=given.scale, only=given.only, keep=keep)
    sys.stdout.write((json.dumps(found) if given.json else table(found)) + "\n")
    faults = [fault for one in found for fault in one["faults"]]
    sys.stderr.write("".join(f"{fault}\n" for fault in faults[:200]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
