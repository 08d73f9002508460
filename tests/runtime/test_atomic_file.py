"""Files that are whole or not there, and what is said when they cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.atomic_file import replaced_at_end, writing


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
