"""Signals: one line, the status that shells expect, and nothing left, from the first import to the last file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals of POSIX")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LINE = "gmos-run: interrupted; what was finished is kept\n"

AT_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
number, at, count, begun = {number}, {at}, 0, not {once_answered}
def hook(event, arguments):
    global count, begun
    if event == "import":
        begun = begun or arguments[0] == "gmos_deploy.cli"
        count += begun
        if count == at + 1 and begun:
            count += 1
            os.kill(os.getpid(), number)
from gmos_deploy.entry import run
sys.addaudithook(hook)
try:
    run()
finally:
    print(count)
"""
"""A run that a signal reaches as it imports its module of some number; else it prints how many there were."""


def run_at(at: int, number: int, *, once_answered: bool) -> subprocess.CompletedProcess[str]:
    code = AT_IMPORT.format(number=int(number), at=at, once_answered=once_answered)
    return subprocess.run(
        [sys.executable, "-c", code, "nothing-there.mp4", "--variant", "gmos"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def imports() -> int:
    """How many modules a run imports until it knows that its input is missing."""
    found = run_at(10**6, signal.SIGINT, once_answered=False)
    assert found.returncode == 2, found.stderr
    return int(found.stdout)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_during_the_imports_is_one_line(number: signal.Signals, imports: int) -> None:
    """The first ones, and some of the hundreds that follow; before SIGTERM is answered nobody need say anything."""
    draw = random.Random(int(number))  # noqa: S311 - a sample
    first = [0, 1, 2] if number == signal.SIGINT else [0]
    for at in [*first, *sorted(draw.sample(range(3, imports - 50), 4))]:
        found = run_at(at, number, once_answered=number != signal.SIGINT)
        assert (found.returncode, found.stderr.splitlines()[-1:]) in [
            (128 + number, ["gmos-run: interrupted"]),
            (128 + number, [LINE.strip()]),
        ], (at, found.stderr)
        assert found.stderr.count("\n") == 1, (at, found.stderr)


WORKING = """
import os, signal, sys, threading, time
import click
from gmos_deploy.cli import start
from gmos_deploy.interruption import answer_signals
signal.signal(signal.SIGINT, signal.default_int_handler)
answer_signals("gmos-run", keeps_results=True)
def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(0.01)
@click.command()
def command():
{body}
sys.argv = ["gmos-run"]
start(command, "gmos-run")
"""

BODIES = {
    # Turned into another error, as extension modules do.
    "turned": """
    try:
        send(signal.SIGTERM)
    except BaseException as error:
        raise ImportError("initialisation failed") from error
""",
    # Swallowed by what Python calls on its own.
    "finaliser": """
    class Dying:
        def __del__(self):
            send(signal.SIGTERM)
    Dying()
    time.sleep(20)
""",
    "swallowed": """
    try:
        send(signal.SIGTERM)
    except BaseException:
        pass
""",
    # Several are one, and what is cleared up is cleared up.
    "repeated": """
    try:
        send(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    finally:
        send(signal.SIGTERM, signal.SIGINT)
        print("cleared up")
""",
    # It waits until a step is whole, also one that fails.
    "held": """
    from gmos_deploy.interruption import answered_after
    try:
        with answered_after():
            send(signal.SIGTERM)
            print("whole", flush=True)
            raise ValueError
    except ValueError:
        time.sleep(20)
""",
    # A thread that never ends, in the place of a library's.
    "thread": """
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    send(signal.SIGTERM)
""",
    # Long after the first one a second one is not put off.
    "impatient": """
    import gmos_deploy.interruption
    gmos_deploy.interruption.REPEATED_S = 0
    try:
        send(signal.SIGINT)
    finally:
        send(signal.SIGTERM)
        print("waited for", flush=True)
""",
}


@pytest.mark.parametrize("body", BODIES)
def test_a_signal_is_never_lost(body: str) -> None:
    """Whatever becomes of the exception that it is raised as."""
    begun = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", WORKING.format(body=BODIES[body])], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (128 + signal.SIGTERM, LINE)
    assert found.stdout == {"repeated": "cleared up\n", "held": "whole\n"}.get(body, "")
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_what_is_to_be_ignored_is_ignored(number: signal.Signals) -> None:
    """`nohup gmos-run` outlives its terminal, and a shell's background job its Ctrl-C."""
    code = WORKING.format(body=f"    send({int(number)})\n    print('went on')").replace(
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        f"signal.signal({int(number)}, signal.SIG_IGN)",
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "went on\n", "")


EVALUATING = """
import os, signal, sys, time
import multiprocessing
from gmos_deploy.evaluation.benchmarks import run
def wait():
    time.sleep(60)
if __name__ == "__main__":
    def told():
        while len(multiprocessing.active_children()) < 2 or not multiprocessing.active_children()[1].pid:
            time.sleep(0.01)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    import threading
    threading.Thread(target=told, daemon=True).start()
    run.evaluate_sequences([wait, wait], workers=2, advance=lambda: None)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_processes_of_an_evaluation_end_with_it(number: signal.Signals, tmp_path: Path) -> None:
    """They are in the middle of something; after SIGKILL nobody is left to end them."""
    script = tmp_path / "evaluating.py"
    script.write_text(EVALUATING)
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        # Their imports are over when they have ended the wait for them in the parent; then both sleep.
        time.sleep(2)
        os.kill(parent.pid, number)
        assert parent.wait(60) != 0
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.05)
