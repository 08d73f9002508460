"""The private directory: gone at the end, gone after a crash, never taken from a live run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.results.outputs import check_save_dir
from gmos_deploy.runtime.results.work_directory import work_directory

CRASHING_RUN = """
import os, sys
from pathlib import Path
from gmos_deploy.runtime.results.work_directory import work_directory
with work_directory(Path(sys.argv[1]), ".gmos") as work:
    (work / "half.png").write_bytes(b"half")
    os._exit(9)
"""


def everything(place: Path) -> list[str]:
    """All paths below a place."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def test_nothing_is_left(tmp_path: Path) -> None:
    """The parents made for it are removed too, those that were there stay."""
    with work_directory(tmp_path / "a" / "b", ".gmos") as work:
        (work / "file").write_text("x")
        assert work.is_relative_to(tmp_path / "a" / "b" / ".gmos")
    assert everything(tmp_path) == []
    assert tmp_path.exists()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, GmosError])
def test_nothing_is_left_after_an_error(tmp_path: Path, ending: type[BaseException]) -> None:
    """Ctrl-C included."""

    def stop() -> None:
        with work_directory(tmp_path, ".gmos") as work:
            (work / "file").write_text("x")
            raise ending

    with pytest.raises(ending):
        stop()
    assert everything(tmp_path) == []


def test_what_others_put_beside_it_stays(tmp_path: Path) -> None:
    """Parents are removed only where they are empty."""
    with work_directory(tmp_path / "out", ".gmos"):
        (tmp_path / "out" / "mine").write_text("x")
    assert everything(tmp_path) == ["out", "out/mine"]


def test_dead_runs_are_cleaned_up_and_live_ones_are_not(tmp_path: Path) -> None:
    """A killed process leaves its directory; the next run removes it."""
    with work_directory(tmp_path, ".gmos") as alive:
        crashed = subprocess.run([sys.executable, "-c", CRASHING_RUN, str(tmp_path)], check=False)
        assert crashed.returncode == 9
        assert len(list((tmp_path / ".gmos").iterdir())) == 2
        with work_directory(tmp_path, ".gmos") as work:
            assert alive.exists()
            assert work.exists()
            assert len(list((tmp_path / ".gmos").iterdir())) == 2
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "cannot write .*file: a part of this path is a file|there is a file where"),
        ("file/out", "cannot write .*file/out: a part of this path is a file, not a directory"),
        (f"{'n' * 300}", "the name is too long; choose a shorter one"),
        ("/proc/results", "cannot write /proc/results: "),
    ],
)
def test_unwritable_places_are_found_at_once(tmp_path: Path, place: str, message: str) -> None:
    """Before any network is loaded."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(GmosError, match=message) as caught:
        check_save_dir(tmp_path / place)
    assert "\n" not in str(caught.value)
    assert everything(tmp_path) == ["file"]


def test_a_good_place_is_left_as_it_was(tmp_path: Path) -> None:
    """The check makes nothing that stays."""
    check_save_dir(tmp_path / "new" / "out")
    check_save_dir(tmp_path)
    assert everything(tmp_path) == []
