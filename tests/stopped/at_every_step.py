"""Stops commands at every step that they take in the file system, and looks at what is there.

    python tests/stopped/at_every_step.py FOLDER SCENARIO[:N|:-N]...

Imports are done once a scenario; each attempt is a fork. For each scenario it writes `FOLDER/SCENARIO.json`: how many
steps there were, and what was wrong. At each step comes a SIGKILL, right before it; at some of them, chosen with seed
0, a signal that is answered, right after it. `:N` takes N steps for both, `:-N` the last N ones.
"""

from __future__ import annotations

import argparse
import builtins
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from live_scenario import Live
from scenarios import SCENARIOS, Scenario

from gmos_deploy import interruption
from gmos_deploy.cli import guarded
from gmos_deploy.interruption import Interrupted

STEPS = ("mkdir", "rmdir", "rename", "replace", "unlink", "remove", "link", "symlink", "truncate", "fsync")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LIMIT_S = 120
SIGNALS = 8
ANSWERED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Steps:
    """Counts the steps of this process, and sends it a signal at one of them."""

    def __init__(self, at: int, number: int) -> None:
        self.count, self._at, self._number, self.names = 0, at, number, list[str]()

    def install(self) -> None:
        for name in STEPS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        os.open = self._counted("os.open", os.open, lambda _, flags, *__, **___: flags & WRITING)
        io.open = builtins.open = self._counted(  # type: ignore[assignment]
            "open", builtins.open, lambda _, mode="r", *__, **___: set(mode) & set("wax+")
        )

    def _counted(
        self, name: str, real: Callable[..., Any], counts: Callable[..., object] = lambda *_, **__: True
    ) -> Callable[..., Any]:
        def call(*given: Any, **how: Any) -> Any:
            if not counts(*given, **how):
                return real(*given, **how)
            # One step may be a part of another.
            self.count = mine = self.count + 1
            self.names.append(name)
            if mine == self._at and self._number == signal.SIGKILL:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*given, **how)
            finally:
                if mine == self._at:
                    os.kill(os.getpid(), self._number)

        return call


def forked(work: Callable[[], int | None], limit_s: float = LIMIT_S) -> int:
    """Run something in a process of its own; returns its status, or minus the signal that ended it."""
    pid = os.fork()
    if not pid:
        # Whatever happens, this process never gets back into the loop.
        status = 1
        try:
            status = work() or 0
        except BaseException:  # noqa: BLE001 - a process ends here
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    deadline = time.monotonic() + limit_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 99
        time.sleep(0.005)


def stopped(scenario: Scenario, steps: Steps, count_file: Path) -> int:
    """The new version, with steps counted; as under a command's guard where a signal is answered."""
    import click

    # What started the tests may have had them ignored, as nohup and shells in the background do.
    for number in ANSWERED:
        signal.signal(number, signal.SIG_DFL)
    interruption.answer_signals("gmos-test", keeps_results=True)
    interruption.clear_up_first()

    @click.command()
    def command() -> int:
        return scenario.act(True) or 0

    steps.install()
    try:
        status = guarded(command, "gmos-test", [])
    except Interrupted:
        status = 77
    total = steps.count
    count_file.write_text(str(total))
    return status


def temporary(folder: Path) -> list[str]:
    """What is in a place for a while only."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if ".gmos-" in path.name
        or path.name.startswith(("work-", "trial-", "live-"))
        or path.suffix in (".next", ".tmp")
        or path.parent.name == "claims"
    )


def fault(scenario: Scenario, n: int, number: int, folder: Path, versions: tuple[Any, Any]) -> str:
    """What is wrong after a signal at step `n`; empty if nothing is."""
    steps = Steps(n, number)
    answered = number != signal.SIGKILL
    status = forked(lambda: stopped(scenario, steps, folder / "count"))
    if status != (128 + number if answered else -number):
        return f"ended with {status}"
    if answered and (left := temporary(scenario.folder)):
        return f"left {left}"
    if scenario.begins and (status := forked(scenario.next_call)) != 0:
        return f"the next call's beginning ended with {status}"
    try:
        if scenario.version() not in (*versions, "both", "nothing"):
            return "it is neither old nor new"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
        return f"{type(error).__name__}: {error}"
    if answered:
        return ""
    if (status := forked(lambda: scenario.act(True))) != 0:
        return f"the next call ended with {status}"
    if scenario.version() != versions[1]:
        return "the next call made something else"
    left = temporary(scenario.folder)
    return f"after the next call there is {left}" if left else ""


def examine(name: str, part: int | None, folder: Path) -> dict[str, Any]:
    """All attempts of a scenario, in a folder of its own."""
    scenario = (SCENARIOS | {"live": Live})[name](folder / "place")
    scenario.folder.mkdir(parents=True)
    os.environ["XDG_CONFIG_HOME"] = str(scenario.folder / "config")
    os.environ["XDG_CACHE_HOME"] = str(scenario.folder / "cache")
    # Before the first fork, and no more than needed: a fork copies the tables of all its memory.
    for module in scenario.modules:
        importlib.import_module(f"gmos_deploy.{module}")
    scenario.once()
    assert forked(lambda: scenario.act(False)) == 0
    shutil.copytree(scenario.folder, folder / "kept")

    def fresh() -> None:
        # At the very same path: settings may hold it.
        shutil.rmtree(scenario.folder)
        shutil.copytree(folder / "kept", scenario.folder)

    before = scenario.version()
    fresh()
    assert forked(lambda: stopped(scenario, Steps(-1, 0), folder / "count")) == 0
    total, after = int((folder / "count").read_text()), scenario.version()
    assert before != after
    draw = random.Random(0)  # noqa: S311 - a sample
    steps = list(range(1, total + 1))
    if part is not None:
        steps = sorted(draw.sample(steps, min(part, total))) if part > 0 else steps[part:]
    wrong = {}
    for n in steps:
        fresh()
        wrong[f"SIGKILL at {n}"] = fault(scenario, n, signal.SIGKILL, folder, (before, after))
    for n in sorted(draw.sample(steps, min(SIGNALS, len(steps)))):
        fresh()
        number = ANSWERED[n % len(ANSWERED)]
        wrong[f"{number.name} at {n}"] = fault(scenario, n, number, folder, (before, after))
    return {
        "steps": total,
        "tried": len(wrong),
        "wrong": {at: found for at, found in wrong.items() if found},
        "cpu_s": round(sum(os.times()[:4]), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenarios", nargs="+", metavar="SCENARIO")
    given = parser.parse_args()
    for text in given.scenarios:
        name, _, part = text.partition(":")
        result, folder = given.folder / f"{name}.json", given.folder / name

        def work(name: str = name, part: str = part, folder: Path = folder, result: Path = result) -> int:
            result.write_text(json.dumps(examine(name, int(part) if part else None, folder)))
            return 0

        forked(work, limit_s=3600)


if __name__ == "__main__":
    main()
