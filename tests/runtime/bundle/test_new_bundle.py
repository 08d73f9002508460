"""Where a bundle goes that is written: mount points, folders that cannot be written, two writers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.export.onnx.bundle_directory import check_place
from gmos_deploy.runtime.bundle import new_bundle as module
from gmos_deploy.runtime.bundle.manifest import MANIFEST
from gmos_deploy.runtime.bundle.new_bundle import (
    INSIDE,
    check_new_bundle,
    keeps_place,
    new_bundle,
    writing_alone,
)

OLD = {MANIFEST: "old", "dino.onnx": "old", "engines/tensorrt/dino.engine": "old"}
NEW = {MANIFEST: "new", "dino.onnx": "new", "pi3.onnx": "new"}


def fill(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def content(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


class Stop(BaseException):
    """As Ctrl-C."""


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that cannot be renamed, whatever asks, as a mount point."""
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    return out


def refuse_renames(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mount that does not look like one, and as what another user owns in /tmp."""
    rename, rmdir = Path.rename, Path.rmdir

    def busy(path: Path, target: Any) -> Path:
        if out in (path, Path(target)):
            raise OSError(16, "Device or resource busy")
        return rename(path, target)

    def busy_directory(path: Path) -> None:
        if path == out:
            raise OSError(16, "Device or resource busy")
        rmdir(path)

    monkeypatch.setattr(Path, "rename", busy)
    monkeypatch.setattr(Path, "rmdir", busy_directory)
    monkeypatch.setattr(module, "exchanged", lambda *_: False)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("looks", [True, False])
def test_a_mount_point_gets_its_bundle(
    mounted: Path, replace: bool, looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is one is found out before, or at the end."""
    if not looks:
        monkeypatch.undo()
        refuse_renames(mounted, monkeypatch)
    inode = mounted.stat().st_ino
    for files in (OLD, NEW) if replace else (NEW,):
        with new_bundle(mounted, replace=replace) as root:
            fill(root, files)
        assert content(mounted) == files
    assert mounted.stat().st_ino == inode
    assert list(mounted.parent.iterdir()) == [mounted]


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux has them")
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_real_mount_gets_its_bundle(tmp_path: Path, kind: str) -> None:
    """Another file system, and one of the same device, which looks like any directory."""
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    for name in ("out", "source"):
        (tmp_path / name).mkdir()
    how = "-t tmpfs none out" if kind == "tmpfs" else "--bind source out"
    code = (
        "import sys; from pathlib import Path; from gmos_deploy.runtime.bundle.new_bundle import new_bundle\n"
        "for text in ('old', 'new'):\n"
        "    with new_bundle(Path('out')) as root:\n"
        "        (root / 'bundle.json').write_text(text); (root / text).mkdir()\n"
        "print(sorted(path.name for path in Path('out').iterdir()), Path('out/bundle.json').read_text())\n"
    )
    script = f"mount {how} && exec {sys.executable} -c '{code.replace(chr(39), chr(34))}'"
    found = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert (found.stdout, found.returncode) == ("['bundle.json', 'new'] new\n", 0), found.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.parametrize("error", [Stop, RuntimeError])
def test_what_was_there_stays_if_the_block_ends_early(mounted: Path, error: type[BaseException]) -> None:
    """Without anything beside it."""
    fill(mounted, OLD)

    def ended() -> None:
        with new_bundle(mounted) as root:
            fill(root, {"half": "new"})
            raise error

    with pytest.raises(error):
        ended()
    assert content(mounted) == OLD


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("step", range(8))
def test_old_or_new_whichever_step_is_the_last(
    mounted: Path, step: int, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At an interruption at once; after a kill no bundle.json is there unless it is whole, and the next one mends."""
    fill(mounted, OLD)
    rename, left = Path.rename, [step]

    def stopping(path: Path, target: Any) -> Path:
        left[0] -= 1
        if left[0] == -1 or (killed and left[0] < 0):
            raise Stop
        return rename(path, target)

    def act() -> None:
        with new_bundle(mounted) as root:
            fill(root, NEW)
            monkeypatch.setattr(Path, "rename", stopping)

    with pytest.MonkeyPatch.context() as dead:
        if killed:
            dead.setattr("gmos_deploy.runtime.files.atomic_file._removed", lambda _, lock: lock.release())
        try:
            act()
        except Stop:
            ended = False
        else:
            ended = True
    assert ended == (step >= 7), "three entries make room, one name changes, three get in"
    monkeypatch.setattr(Path, "rename", rename)
    if killed:
        there = {name: text for name, text in content(mounted).items() if not name.startswith(INSIDE)}
        assert there in (OLD, NEW) or MANIFEST not in there
        check_place(mounted, force=True)
    assert content(mounted) == (OLD if step < 4 else NEW)


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("kind", ["mount", "two steps"])
def test_no_failure_of_a_move_loses_both(
    tmp_path: Path, kind: str, step: int, lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step, once and from there on: the line says where the files are, and the next export has them whole."""
    out = tmp_path / "out"
    fill(out, OLD)
    monkeypatch.setattr(os.path, "ismount", lambda path: kind == "mount" and Path(path) == out)
    monkeypatch.setattr(module, "exchanged", lambda *_: False)
    rename, calls = Path.rename, iter(range(1000))

    def failing(path: Path, target: Any) -> Path:
        count = next(calls)
        if count == step or (lasting and count > step):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    def act() -> None:
        with new_bundle(out) as root:
            fill(root, NEW)
            monkeypatch.setattr(Path, "rename", failing)

    said = ""
    try:
        act()
    except GmosError as error:
        said = str(error)
    assert "Input/output error" in said or content(out) == NEW
    there = None if "its files are whole in" in said else content(out)
    monkeypatch.setattr(Path, "rename", rename)
    assert there in (None, OLD, NEW)
    if there is None:
        assert lasting, "what failed once is put right at once"
        check_place(out, force=True)
    with pytest.raises(RuntimeError), new_bundle(out):
        raise RuntimeError
    assert content(out) in (OLD, NEW)
    assert list(tmp_path.iterdir()) == [out]


def write_twice(out: Path) -> None:
    """Two that were told that nothing was there: the one that ends last is refused."""

    def second() -> None:
        with new_bundle(out, replace=False) as root:
            fill(root, OLD)
            with new_bundle(out, replace=False) as first:
                fill(first, NEW)

    with pytest.raises(GmosError, match="holds files of another process now; give --force"):
        second()
    assert content(out) == NEW


def test_a_second_writer_does_not_replace_the_first(tmp_path: Path) -> None:
    """Both were told that nothing was there; only one of them is right by the end."""
    write_twice(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    write_twice(tmp_path / "empty")


def test_a_second_writer_into_a_mount_does_not_replace_the_first(mounted: Path) -> None:
    """As above."""
    write_twice(mounted)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks of directories")
def test_two_do_not_move_in_at_once(mounted: Path) -> None:
    """A mixture of two bundles would be there."""

    def both() -> None:
        with new_bundle(mounted) as root:
            fill(root, NEW)
            number = os.open(mounted, os.O_RDONLY)
            module.lock(number)

    with pytest.raises(GmosError, match="another process puts a bundle into"):
        both()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks as here")
@pytest.mark.parametrize("name", ["out", "new/deep/out", "mounted"])
def test_a_second_writer_is_refused_at_its_start(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before hours of work, wherever the place is; when the first has ended the next may, and nothing is left."""
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "mounted")
    out = tmp_path / name
    if name == "mounted":
        out.mkdir()
    (tmp_path / "link").symlink_to(tmp_path)

    def second(place: Path) -> None:
        with writing_alone(place):
            pytest.fail("two at once")

    with writing_alone(out):
        for place in (out, tmp_path / "link" / name):
            with pytest.raises(
                GmosError, match=r"another process is making a bundle in .*out|mounted.*; wait"
            ):
                second(place)
        with writing_alone(tmp_path / "other" / "out"), new_bundle(out) as root:
            fill(root, NEW)
    with writing_alone(out):
        assert content(out).items() >= NEW.items()
    assert content(out) == NEW
    assert not list(tmp_path.rglob("*.gmos-tmp"))


def test_what_a_killed_writer_left_refuses_nobody(tmp_path: Path) -> None:
    """The system drops its lock; the file goes with the next writer."""
    killed = "import os; from pathlib import Path; from gmos_deploy.runtime.bundle.new_bundle import writing_alone\n"
    killed += "with writing_alone(Path('out')): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", killed], cwd=tmp_path, check=False).returncode == -9
    assert len(list(tmp_path.glob(".gmos-*"))) == 1
    with writing_alone(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def unwritable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so that permissions cannot be tried."""
    real: Callable[[Path], None] = module.check_directory

    def check(directory: Path) -> None:
        if directory == path:
            raise GmosError(f"cannot write {directory}: permission denied")
        real(directory)

    monkeypatch.setattr(module, "check_directory", check)


def test_a_directory_in_one_that_cannot_be_written_gets_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made beside it."""
    out = tmp_path / "parent/out"
    fill(out, OLD)
    unwritable(out.parent, monkeypatch)
    monkeypatch.setattr(module, "exchanged", lambda *_: pytest.fail("renamed"))
    assert keeps_place(out)
    with new_bundle(out) as root:
        assert root.parent.parent == out
        fill(root, NEW)
    assert content(out) == NEW


@pytest.mark.parametrize("name", ["parent/out", "parent/new/out", "parent/out/"])
def test_a_place_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is computed; no folder is made for it."""
    parent = tmp_path / "parent"
    parent.mkdir()
    unwritable(parent, monkeypatch)
    with pytest.raises(GmosError, match="permission denied"):
        check_new_bundle(tmp_path / name)
    assert list(parent.iterdir()) == []
    (parent / "out").mkdir()
    unwritable(parent / "out", monkeypatch)
    with pytest.raises(GmosError, match="permission denied"):
        check_place(parent / "out", force=False)


def test_what_a_calibration_keeps_inside_is_no_part_of_a_bundle(mounted: Path) -> None:
    """It stays while the bundle is exchanged, and a directory with nothing else is empty."""
    kept = mounted / ".gmos-unfinished/settings.json"
    fill(mounted, {".gmos-unfinished/settings.json": "kept"})
    check_place(mounted, force=False)
    with new_bundle(mounted, replace=False) as root:
        fill(root, NEW)
    assert content(mounted) == {**NEW, ".gmos-unfinished/settings.json": "kept"}
    shutil.rmtree(kept.parent)


def test_what_goes_beside_a_bundle_goes_inside_a_mount(mounted: Path) -> None:
    """What is beside a container's mount is gone with the container."""
    assert module.beside(mounted, "unfinished") == mounted / ".gmos-unfinished"
    assert module.beside(mounted.parent / "new", "failed") == mounted.parent / "new.failed"
