"""Who has a sequence in hand, and what becomes of it when they die: on one host, on another, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.fleet import claims as module
from gmos_deploy.fleet.claims import Claims

DEAD = """
import os, sys
from pathlib import Path
from gmos_deploy.fleet.claims import Claims
for _ in range(int(sys.argv[2])):
    pid = os.fork()
    if not pid:
        claims = Claims(Path(sys.argv[1]), "key").__enter__()
        assert claims.take("clip") == "taken"
        os.kill(os.getpid(), 9)
    assert os.waitpid(pid, 0)[1] == 9
"""


def die_with(place: Path, times: int) -> None:
    """Other processes that are killed with `clip` in hand, one after the other."""
    subprocess.run([sys.executable, "-c", DEAD, place, str(times)], check=True)


def left(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def test_one_has_it_and_then_the_other(tmp_path: Path) -> None:
    """Held while it is in hand; nothing is left when both have gone."""
    place = tmp_path / "new/out"
    with Claims(place, "key") as a, Claims(place, "key") as b:
        assert a.gang == b.gang
        assert a.since_ns == b.since_ns
        assert a.take("clip") == "taken"
        assert b.take("clip") == "held"
        assert b.take("other") == "taken"
        a.release("clip")
        assert b.take("clip") == "taken"
    assert left(tmp_path) == []


def test_runs_with_other_settings_are_another_gang(tmp_path: Path) -> None:
    """A sequence is one's all the same: the place of its results is."""
    with Claims(tmp_path, "key") as a, Claims(tmp_path, "other") as b:
        assert a.gang != b.gang
        assert a.take("clip") == "taken"
        assert b.take("clip") == "held"
        a.release("clip", failed="broken")
        assert b.take("clip") == "taken"


def test_a_failure_is_told_to_the_others(tmp_path: Path) -> None:
    """And forgotten with the last of them."""
    with Claims(tmp_path, "key") as a:
        with Claims(tmp_path, "key") as b:
            assert b.take("clip") == "taken"
            b.release("clip", failed="broken")
        assert a.take("clip") == "broken"
    assert left(tmp_path) == []
    with Claims(tmp_path, "key") as a:
        assert a.take("clip") == "taken"


def test_a_dead_processs_claim_is_taken_over(tmp_path: Path) -> None:
    """At once, where the system tells; three deaths of one gang are enough."""
    with Claims(tmp_path, "key") as a:
        die_with(tmp_path, 2)
        assert a.take("clip") == "taken"
        a.release("clip")
        die_with(tmp_path, 3)
        assert a.take("clip") == "3 processes died with it in hand"
        assert a.take("clip") == "3 processes died with it in hand"
    assert left(tmp_path) == []


def test_deaths_of_earlier_runs_do_not_count(tmp_path: Path) -> None:
    """Whoever stops a run three times has no bad video."""
    die_with(tmp_path, 3)
    with Claims(tmp_path, "key") as a:
        assert a.take("clip") == "taken"
    # The dead ones made these folders, and nobody knows.
    assert [name for name in left(tmp_path) if name not in (".gmos", ".gmos/claims")] == []


def test_another_host_is_dead_when_it_has_been_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of the file system; a heartbeat keeps it alive, and only one takes over."""
    with Claims(tmp_path, "key") as far:
        assert far.take("clip") == "taken"
        far._ended.set()
        monkeypatch.setattr(module, "host_identity", lambda: "another host")
        with Claims(tmp_path, "key", stale_s=120) as a, Claims(tmp_path, "key", stale_s=120) as b:
            assert a.take("clip") == "held"
            past = far._run.stat().st_mtime - 121
            os.utime(far._run, (past, past))
            assert {a.take("clip"), b.take("clip")} == {"taken", "held"}
            os.utime(far._run)
            # It went on after all: it loses nothing, and takes nothing away.
            far.release("clip")
            assert a.take("clip") == "held" or b.take("clip") == "held"


def test_a_number_that_came_again_is_another_process(tmp_path: Path) -> None:
    """As after a restart of a container."""
    with Claims(tmp_path, "key") as far:
        assert far.take("clip") == "taken"
        owner = module._read(far._run)
        assert owner is not None
        before = json.dumps({**{name: getattr(owner, name) for name in owner.__slots__}, "started": "1"})
        far._run.write_text(before)
        with Claims(tmp_path, "key") as a:
            assert a.take("clip") == "taken"


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have none."""

    def none(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    with Claims(tmp_path, "key") as a, Claims(tmp_path, "key") as b:
        assert (a.take("clip"), b.take("clip")) == ("taken", "held")
        a.release("clip")
        assert b.take("clip") == "taken"
    assert left(tmp_path) == []


TURNS = """
import sys
from pathlib import Path
from gmos_deploy.fleet.claims import Claims
place, done = Path(sys.argv[1]), Path(sys.argv[2])
with Claims(place, "key") as claims:
    print("ready", flush=True)
    sys.stdin.readline()
    held = [f"clip{k}" for k in range(40)]
    while held:
        for name in list(held):
            taken = claims.take(name)
            if taken == "taken":
                if not (done / name).exists():
                    (done / name).open("x").close()
                claims.release(name)
                held.remove(name)
"""


def test_three_processes_share_a_list(tmp_path: Path) -> None:
    """Nobody makes what another one has made: `open("x")` would fail."""
    (tmp_path / "done").mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TURNS, tmp_path / "out", tmp_path / "done"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    ended = [process.communicate("go\n", timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    assert len(list((tmp_path / "done").iterdir())) == 40
    assert left(tmp_path / "out") in ([], [".gmos"])


Run = Callable[..., tuple[int, str, str]]


def test_a_list_shared_with_somebody_faster(
    gmos_run: Run, clips: Callable[..., list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another process has finished or has in hand meanwhile is no error: skipped, or waited for."""
    from gmos_deploy.fleet.batch import Turns

    a, b, c = clips("a", "b", "c")
    assert gmos_run(a, b, c)[0] == 0
    kept = tmp_path / "kept"
    (tmp_path / "out").rename(kept)
    real, waited = Turns.take, []

    def take(self: Turns) -> Any:
        if not waited:
            # Somebody has b in hand, and has just finished a.
            other = Claims(tmp_path / "out", self._claims._key).__enter__()
            assert other.gang == self._claims.gang
            assert other.take("b") == "taken"
            waited.append(other)
            _arrive(kept, tmp_path / "out", "a")
        found = real(self)
        if isinstance(found, float) and len(waited) == 1:
            waited.append(found)
            _arrive(kept, tmp_path / "out", "b")
            waited[0].__exit__()
        return found

    monkeypatch.setattr(Turns, "take", take)
    status, out, err = gmos_run(a, b, c)
    assert status == 0, err
    assert "1 sequences are in the hands of other processes" in err
    assert "a: finished before, skipped: another process was faster" in out
    assert "b: finished before, skipped: another process was faster" in out
    assert "c: 3 frames" in out
    assert out.splitlines()[-1] == "1 done, 2 skipped"


def _arrive(kept: Path, out: Path, name: str) -> None:
    for path in list(kept.rglob(f"{name}*")):
        target = out / path.relative_to(kept)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    os.utime(out / f".gmos/{name}.gmos.json")
