"""Work in a process of its own: what it reports, and how it may end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from gmos_deploy.evaluation import child_process
from gmos_deploy.evaluation.child_process import LOG_FILE, ChildRun, kept_report, run_child


@pytest.fixture
def child_in(tmp_path: Path) -> Callable[..., ChildRun]:
    """Runs a program whose body is the work, with `tell`; its files go into a folder, unless that is None."""

    def run(folder: Path | None, body: str, limit_s: float = 60.0, **variables: str) -> ChildRun:
        program = tmp_path / "program.py"
        program.write_text(
            "import os, signal, sys, time\nfrom pathlib import Path\n"
            "from gmos_deploy.errors import GmosError\n"
            "from gmos_deploy.evaluation.child_process import child_main\n"
            f"def work(tell):\n{textwrap.indent(body, '    ')}\n"
            "sys.exit(child_main(work, Path(sys.argv[-1])))\n"
        )
        return run_child([program], limit_s=limit_s, environment=variables, folder=folder)

    return run


@pytest.fixture
def child(child_in: Callable[..., ChildRun]) -> Callable[..., ChildRun]:
    """The same without a folder."""
    return partial(child_in, None)


def test_the_last_report_counts(child: Callable[..., ChildRun]) -> None:
    """And what was printed is kept beside it."""
    ran = child("tell(1)\nprint('words', os.environ['GMOS_WORD'])\ntell([2, None])", GMOS_WORD="given")
    assert (ran.value, ran.fault, ran.log) == ([2, None], "", "words given")


def test_a_crash_keeps_what_was_reported(child: Callable[..., ChildRun]) -> None:
    """The signal is named."""
    ran = child("tell('half')\nprint('before', flush=True)\nos.abort()")
    assert ran.value == "half"
    assert ran.fault == "crashed with SIGABRT; last it printed: before; it was in work, program.py line 8"


def test_a_hang_ends_at_the_limit_with_what_it_started(
    child: Callable[..., ChildRun], tmp_path: Path
) -> None:
    """A process that the child started does not go on writing."""
    mark = tmp_path / "mark"
    loop = f"while True: open({str(mark)!r}, 'a').write('x'); time.sleep(0.02)"
    started = f"subprocess.Popen([sys.executable, '-c', {'import time' + chr(10) + loop!r}])"
    body = f"import subprocess\n{started}\ntell(3)\ntime.sleep(60)"
    ran = child(body, limit_s=4.0)
    assert ran.value == 3
    assert ran.fault == "stopped after 4 s, its limit; it printed nothing; it was in work, program.py line 9"
    assert ran.stopped
    size = mark.stat().st_size
    time.sleep(0.2)
    assert mark.stat().st_size == size


def test_a_refusal_is_its_message_alone(child: Callable[..., ChildRun]) -> None:
    """What a user can act on needs no words around it."""
    assert child("raise GmosError('no such thing; give another')").fault == "no such thing; give another"


def test_a_traceback_ends_with_its_last_line(child: Callable[..., ChildRun]) -> None:
    """The whole of it is in the log."""
    ran = child("raise KeyError('lost')")
    assert ran.fault == "failed: KeyError: 'lost'"
    assert "Traceback" in ran.log


@pytest.mark.skipif(sys.platform == "win32", reason="the C library of Unix")
def test_a_library_that_keeps_the_interpreter_is_seen(child: Callable[..., ChildRun]) -> None:
    """Where it hangs is told though no Python runs any more; threads of others do not hide it."""
    body = (
        "import ctypes, threading\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "print('waits', flush=True)\n"
        "ctypes.PyDLL(None).sleep(60)"
    )
    ran = child(body, limit_s=4.0)
    assert ran.stopped
    assert (
        ran.fault == "stopped after 4 s, its limit; last it printed: waits; it was in work, program.py line 9"
    )


def test_a_child_ends_at_its_limit_when_its_parent_was_killed(tmp_path: Path) -> None:
    """Nobody is there to end it."""
    program, place = tmp_path / "program.py", tmp_path / "place"
    program.write_text(
        "import os, sys, time\nfrom pathlib import Path\n"
        "from gmos_deploy.evaluation.child_process import child_main, run_child\n"
        "def work(tell):\n    tell(os.getpid())\n    time.sleep(60)\n"
        "if sys.argv[1] == 'child':\n    sys.exit(child_main(work, Path(sys.argv[-1])))\n"
        "run_child([__file__, 'child'], limit_s=6.0, folder=Path(sys.argv[2]))\n"
    )
    parent = subprocess.Popen([sys.executable, program, "parent", place])
    end = time.monotonic() + 30
    while kept_report(place) is None and time.monotonic() < end:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    child = psutil.Process(kept_report(place))
    with suppress(psutil.NoSuchProcess):
        child.wait(30)
    assert "in work" in (place / LOG_FILE).read_text()


def test_what_a_child_leaves_in_a_folder(child_in: Callable[..., ChildRun], tmp_path: Path) -> None:
    """All that it printed, and its report; of the one before nothing."""
    place = tmp_path / "place"
    child_in(place, "tell(1)\nprint('x' * 9000)")
    assert (kept_report(place), (place / LOG_FILE).stat().st_size) == (1, 9001)
    child_in(place, "print('new')")
    assert (kept_report(place), (place / LOG_FILE).read_text()) == (None, "new\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_child_that_cannot_be_ended_is_left_behind(
    child: Callable[..., ChildRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that a driver holds; here it is stopped, and signals do not reach it."""
    with monkeypatch.context() as patch:
        patch.setattr(child_process.os, "killpg", lambda *_: None)
        patch.setattr(child_process, "GRACE_S", 0.2)
        patch.setattr(child_process, "KILLED_S", 0.2)
        ran = child("tell(os.getpid())\nos.kill(os.getpid(), signal.SIGSTOP)", limit_s=6.0)
    assert ran.stopped
    assert ran.fault.startswith(
        "stopped after 6 s, its limit; it printed nothing; the system did not end it within"
    )
    os.kill(ran.value, signal.SIGKILL)
    os.waitpid(ran.value, 0)
