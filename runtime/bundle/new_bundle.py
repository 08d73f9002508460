"""A bundle's new directory: whole or not there."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ...errors import GmosError
from ..files.atomic_file import (
    TEMPORARY,
    check_directory,
    lock,
    remove_stale,
    remove_stale_files,
    work_folder,
    writing,
)
from .files import OURS
from .manifest import MANIFEST

OLD, REPLACED = "old", "replaced"
"""What was at the bundle's place, in the work folder, while neither is there; and once all of it has made room."""

INSIDE = f"{OURS}new-"

EXCHANGE = {
    "linux": ("renameat2", (-100, -100), 2),
    "darwin": ("renameatx_np", (-2, -2), 2),
}
"""What exchanges two names in one step: the C library's function, its words for the working directory, and its flag."""


@contextmanager
def new_bundle(directory: Path, *, replace: bool = True) -> Iterator[Path]:
    """A temporary directory that takes the place of `directory` when the block ends without an error.

    What was there before stays until then, and is all there is after an error or an interruption. A process that is
    killed leaves one or the other; what else it leaves is removed by the next one. Where the directory keeps its place
    (`keeps_place`) files are moved in one by one, `bundle.json` last: a process that is killed then leaves no bundle,
    and the next one finishes what it began.

    Args:
        directory: the bundle's.
        replace: whether what is there by the end may be replaced.

    Raises:
        GmosError: it cannot be written, or there is something that must not be replaced.
    """
    target = directory.resolve()
    with writing(directory):
        if keeps_place(target):
            with work_folder(target, INSIDE, _settle) as content:
                yield content
                _move_in(content, target, replace=replace)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name[:100]}.gmos-"
        with work_folder(target.parent, prefix, lambda content: _put_back(content, target)) as content:
            yield content
            if not _renamed(content, target, replace=replace):
                with work_folder(target, INSIDE, _settle) as copy:
                    shutil.copytree(content, copy, dirs_exist_ok=True)
                    _move_in(copy, target, replace=replace)


@contextmanager
def writing_alone(directory: Path) -> Iterator[None]:
    """Refuse a place that another process makes a bundle for, before hours of work; others are refused meanwhile.

    Where the file system has no locks nobody is refused here, and `new_bundle` tells at the end.

    Raises:
        GmosError: it cannot be written, or another process is there.
    """
    check_new_bundle(directory)
    target = directory.resolve()
    place = target if keeps_place(target) else next(one for one in target.parents if one.exists())
    # The same for whoever sees the place under another name, as containers do.
    known = hashlib.sha256(target.relative_to(place).as_posix().encode(errors="replace")).hexdigest()
    path = place / f"{OURS}{target.name[:80]}-{known[:8]}{TEMPORARY}"
    held: BinaryIO | None = None
    try:
        while held is None:
            with writing(directory):
                held = path.open("ab")
            if lock(held.fileno()) is False:
                held.close()
                raise GmosError(
                    f"another process is making a bundle in {directory}; wait until it has ended, or choose another "
                    "place"
                )
            # Else another process removed it before it was locked.
            if not _is_at(held, path):
                held.close()
                held = None
        yield
    finally:
        if held is not None:
            if not held.closed:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            held.close()
        # One that an interruption left without a lock.
        remove_stale_files(place)


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def keeps_place(target: Path) -> bool:
    """Whether a directory cannot be exchanged: it is a mount point, or nothing can be made beside it."""
    if not target.is_dir() or os.path.ismount(target):
        return target.is_dir()
    try:
        check_directory(target.parent)
    except GmosError:
        return True
    return False


def beside(target: Path, ending: str) -> Path:
    """A place beside a bundle's directory for what is not a part of it; inside, if the directory keeps its place."""
    return target / f"{OURS}{ending}" if keeps_place(target) else target.with_name(f"{target.name}.{ending}")


def check_new_bundle(directory: Path) -> None:
    """Refuse a place where no bundle can be written, before anything is computed; what a dead process began is ended.

    Raises:
        GmosError: it cannot be written.
    """
    target = directory.resolve()
    if target.is_dir():
        with writing(directory):
            remove_stale(target, INSIDE, _settle)
    if keeps_place(target):
        check_directory(target)
    else:
        # What is not there yet is not made for a command that may end with an error.
        check_directory(next(place for place in target.parents if place.exists()))


def entries(directory: Path) -> list[Path]:
    """What is in a bundle's directory, `bundle.json` last, without what `new_bundle` and calibrations keep there."""
    found = (path for path in directory.iterdir() if not path.name.startswith(OURS))
    return sorted(found, key=lambda path: (path.name == MANIFEST, path.name))


def _renamed(content: Path, target: Path, *, replace: bool) -> bool:
    """Have a new bundle at its place by its name; False if the directory there turns out to keep it."""
    try:
        if not replace:
            # An empty one makes room; renaming replaces nothing else.
            with suppress(OSError):
                target.rmdir()
        if not replace or not target.exists():
            content.rename(target)
        elif not exchanged(content, target):
            try:
                target.rename(content.with_name(OLD))
                content.rename(target)
            finally:
                _put_back(content, target)
    except OSError:
        if not target.is_dir():
            raise
        _refuse_taken(target, replace=replace)
        return False
    return True


def _move_in(content: Path, target: Path, *, replace: bool) -> None:
    """Have a new bundle in a directory that keeps its place, instead of what is there."""
    with _alone_in(target):
        _refuse_taken(target, replace=replace)
        old = content.with_name(OLD)
        try:
            old.mkdir()
            for path in reversed(entries(target)):
                path.rename(old / path.name)
            old.rename(content.with_name(REPLACED))
        finally:
            try:
                _settle(content)
            except GmosError:
                # What lasts fails again, and the line is that one's.
                _settle(content)
            # An interruption: it is not repeated at once.
            except BaseException:
                _settle(content)
                raise


def _settle(content: Path) -> None:
    """The old bundle is in its directory again unless all of it has made room for the new one, which then is."""
    target, old = content.parent.parent, content.with_name(OLD)
    if old.is_dir():
        source = old
    elif content.with_name(REPLACED).is_dir() and content.is_dir():
        source = content
    else:
        return
    with _kept(target, source):
        for path in entries(source):
            path.rename(target / path.name)


@contextmanager
def _kept(target: Path, source: Path) -> Iterator[None]:
    """Say where the files of a bundle are that cannot get to their place; `work_folder` keeps them then."""
    try:
        yield
    except OSError as error:
        raise GmosError(
            f"cannot write {target}: {error.strerror or error}; its files are whole in {source}: the next export or "
            "calibration into that place puts them there"
        ) from error


def _refuse_taken(target: Path, *, replace: bool) -> None:
    if not replace and entries(target):
        raise GmosError(
            f"{target} was empty at the start, and holds files of another process now; give --force to replace them"
        )


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Two processes that move files into one directory would leave a mixture."""
    # Windows opens no directories, and has no locks of them.
    number = None if os.name == "nt" else os.open(directory, os.O_RDONLY)
    try:
        if number is not None and lock(number) is False:
            raise GmosError(f"another process puts a bundle into {directory} right now; try again")
        yield
    finally:
        if number is not None:
            os.close(number)


def _put_back(content: Path, target: Path) -> None:
    """Have the old bundle at its place again if the new one did not get there."""
    old = content.with_name(OLD)
    if old.exists() and not target.exists():
        with _kept(target, old):
            old.rename(target)


def exchanged(a: Path, b: Path) -> bool:
    """Exchange two directories in one step, if the system and the file system can."""
    name, (at_a, at_b), flag = EXCHANGE.get(sys.platform, ("", (0, 0), 0))
    try:
        exchange = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return False
    return bool(exchange(at_a, os.fsencode(a), at_b, os.fsencode(b), flag) == 0)
