"""Files that are whole or not there, and what is said when they cannot be written."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.files.atomic_file import replaced_at_end, writing


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """A stop in the middle leaves the file before it, and nothing beside it."""
    path = tmp_path / "sub" / "report.txt"
    with replaced_at_end(path) as temporary:
        temporary.write_text("old")

    def stop() -> None:
        with replaced_at_end(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert path.read_text() == "old"
    with replaced_at_end(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["report.txt"]


DYING = """
import os, sys
from pathlib import Path
from gmos_deploy.runtime.files.atomic_file import replaced_at_end
with replaced_at_end(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os._exit(9)
"""


def test_what_a_dead_process_left_goes_and_what_a_live_one_writes_stays(tmp_path: Path) -> None:
    """Whatever their numbers are: in containers all are 1."""
    subprocess.run([sys.executable, "-c", DYING, tmp_path / "a"], check=False)
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.a\.[0-9a-f]{16}\.gmos-tmp", left.name)
    with replaced_at_end(tmp_path / "a") as first, replaced_at_end(tmp_path / "a") as second:
        assert not left.exists()
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "first"}


def test_what_has_got_there_meanwhile_can_be_kept(tmp_path: Path) -> None:
    """As of two that make a key at once."""
    path = tmp_path / "key"
    for content in ("first", "second"):
        with replaced_at_end(path, mode=0o600, keep=True) as temporary:
            temporary.write_text(content)
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"key": "first"}
    assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o600


def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    """Others may read it where the user lets them."""
    before = os.umask(0o022)
    try:
        with replaced_at_end(tmp_path / "a") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == (0o644 if sys.platform != "win32" else 0o666)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "cannot write .*a.png: the disk is full; free some space or choose another place"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "permission denied; expected a place this user may write to"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "cannot write .*a.png: Input/output error; choose another place"),
    ],
)
def test_system_errors_become_one_line(tmp_path: Path, code: int, message: str) -> None:
    """With the path, the cause and the way out."""
    with pytest.raises(GmosError, match=message) as caught, writing(tmp_path / "a.png"):
        raise OSError(code, "Input/output error")
    assert "\n" not in str(caught.value)


def test_errors_without_a_code_keep_their_text(tmp_path: Path) -> None:
    """Some libraries raise bare ones."""
    with (
        pytest.raises(GmosError, match=r"cannot write .*a.png: encoder error -2; choose another place"),
        writing(tmp_path / "a.png"),
    ):
        raise OSError("encoder error -2")
