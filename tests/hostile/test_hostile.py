"""Thousands of hostile files in half a minute: each is used, or refused in a line, and nothing else happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import try_all

from gmos_deploy.errors import GmosError

SCALE = float(os.environ.get("GMOS_HOSTILE_SCALE", "1"))
"""Times as many files; 1 takes half a minute of processor time."""

SEED = os.environ.get("GMOS_HOSTILE_SEED", "21")


@pytest.mark.skipif(sys.platform == "win32", reason="limits and processes are POSIX's")
def test_hostile_files_are_used_or_refused_in_a_line() -> None:
    """No traceback, no crash, no hang, no other process, nothing written elsewhere, no more than 2 GiB."""
    tried = subprocess.run(
        [sys.executable, str(Path(try_all.__file__)), "--scale", str(SCALE), "--seed", SEED],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 0, tried.stdout[-4000:] + tried.stderr[-4000:]
    total = int(tried.stdout.split()[-4])
    assert total > 5000 * SCALE


def hang(_: Path) -> None:
    while True:
        pass


def wait(_: Path) -> None:
    time.sleep(30)


def crash(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def start(_: Path) -> None:
    subprocess.run(["true"], check=False)


def write(path: Path) -> None:
    (path.parent.parent.parent / "outside").write_bytes(b"x")


def grow(_: Path) -> None:
    assert len(bytearray(b"x") * (80 << 20))


def raise_error(_: Path) -> None:
    raise KeyError("field")


def refuse(_: Path) -> None:
    raise GmosError("no")


@pytest.mark.skipif(sys.platform == "win32", reason="limits and processes are POSIX's")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_good_file_that_is_refused_is_a_fault(tmp_path: Path) -> None:
    """Else a class whose good file has got stale would try nothing."""
    trial: Any = SimpleNamespace(what="made", case=lambda _: b"x", name="x", read=refuse, seeds=(b"good",))
    (tmp_path / "place/in").mkdir(parents=True)
    (fault,) = try_all.in_a_child(trial, tmp_path / "place", Random(1), 1, None)["faults"]
    assert "the good file is refused: no" in fault


@pytest.mark.skipif(sys.platform == "win32", reason="limits and processes are POSIX's")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (hang, "more than 1 s of processor time"),
        (wait, "more than 1 s of time by the clock"),
        (crash, "the process ended with"),
        (start, "subprocess.Popen"),
        (write, "open ("),
        (raise_error, "KeyError: 'field'"),
        (grow, " MiB"),
        (refuse, ""),
    ],
)
def test_what_must_not_happen_would_be_seen(
    read: Callable[[Path], None], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of fault, made on purpose."""
    monkeypatch.setattr(try_all, "LIMIT_S", 1)
    monkeypatch.setattr(try_all, "LIMIT_BYTES", 64 << 20)
    monkeypatch.setattr(try_all, "LIMIT_WALL_S", 3 if read is hang else 1)
    trial: Any = SimpleNamespace(what="made", case=lambda _: b"x", name="x", read=read, seeds=())
    (tmp_path / "place/in").mkdir(parents=True)
    found = try_all.in_a_child(trial, tmp_path / "place", Random(1), 1, None)
    assert bool(found["faults"]) == bool(fault), found
    assert not fault or fault in found["faults"][0]
