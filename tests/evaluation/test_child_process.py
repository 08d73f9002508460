"""Work in a process of its own: what it reports, and how it may end."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gmos_deploy.evaluation.child_process import ChildRun, run_child


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., ChildRun]:
    """Runs a program whose body is the work, with `tell`."""

    def run(body: str, limit_s: float = 60.0, **variables: str) -> ChildRun:
        program = tmp_path / "program.py"
        program.write_text(
            "import os, sys, time\nfrom pathlib import Path\n"
            "from gmos_deploy.errors import GmosError\n"
            "from gmos_deploy.evaluation.child_process import child_main\n"
            f"def work(tell):\n{textwrap.indent(body, '    ')}\n"
            "sys.exit(child_main(work, Path(sys.argv[-1])))\n"
        )
        return run_child([program], limit_s=limit_s, environment=variables)

    return run


def test_the_last_report_counts(child: Callable[..., ChildRun]) -> None:
    """And what was printed is kept beside it."""
    ran = child("tell(1)\nprint('words', os.environ['GMOS_WORD'])\ntell([2, None])", GMOS_WORD="given")
    assert (ran.value, ran.fault, ran.log) == ([2, None], "", "words given")


def test_a_crash_keeps_what_was_reported(child: Callable[..., ChildRun]) -> None:
    """The signal is named."""
    ran = child("tell('half')\nprint('before', flush=True)\nos.abort()")
    assert ran.value == "half"
    assert ran.fault == "crashed with SIGABRT; last it printed: before"


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
    assert ran.fault == "stopped after 4 s, its limit; it printed nothing"
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
