"""Only regular files are read, and nothing that is none is waited for."""

from __future__ import annotations

import io
import os
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gmos_deploy.runtime.files.array_files import read_array, read_arrays
from gmos_deploy.runtime.files.regular_file import check_regular, open_regular, read_bounded, read_text


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    """As usual."""
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for name in ("a", "b"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"


def test_what_is_no_regular_file_is_told(tmp_path: Path) -> None:
    """At once: a pipe without a writer would wait for ever, and a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
    for path, reason in (
        (tmp_path / "pipe", "it is a named pipe and no regular file"),
        (Path("/dev/zero"), "it is a device and no regular file"),
        (tmp_path, "it is a directory and no regular file"),
        (tmp_path / "a\0b", "no file can have this name"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "socket", "No such device"),
        (tmp_path / "missing", "No such file"),
    ):
        with pytest.raises(OSError, match=reason):
            check_regular(path)


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    """By the system."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        check_regular(tmp_path / "a")


def test_no_more_than_asked_for_is_read(tmp_path: Path) -> None:
    """One byte more is refused."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_bounded(path, 100) == b"x" * 100
    with pytest.raises(OSError, match="it has more than 0 MiB"):
        read_bounded(path, 99)
    path.write_text("\ufeffü", encoding="utf-8")
    assert read_text(path) == "ü"


def npy(header: str, data: bytes = b"\0" * 16) -> bytes:
    """An .npy file with a header of any text."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def shaped(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


BAD_ARRAYS = {
    "empty": b"",
    "cut": b"\x93NUMPY",
    "version": b"\x93NUMPY\x09\x00\x00\x00",
    "pickle": b"\x80\x04N.",
    "open brackets": npy("[[["),
    "no shape": npy("{1: 2}"),
    "long shape": npy(shaped("(99999999999999999999999,)")),
    "negative": npy(shaped("(-3,)")),
    "huge": npy(shaped(f"({10**13},)")),
    "objects": npy(shaped("(3,)", "'O'")),
    "letters": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), xx"),
    "truth": npy(shaped("(True, False, 2.5)")),
    "deep": npy("(" * 3000 + ")" * 3000),
    "short": npy(shaped("(5,)")),
    "archive": b"PK\x03\x04" + b"\0" * 40,
}


@pytest.mark.parametrize("content", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays_are_one_kind_of_error(content: bytes, tmp_path: Path) -> None:
    """Whatever NumPy raises on them, alone and in an archive."""
    path = tmp_path / "array.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\w"):
        read_array(path)
    with pytest.raises(ValueError, match=r"\w"):
        read_arrays(path)
    with zipfile.ZipFile(tmp_path / "arrays.npz", "w") as archive:
        archive.writestr("a.npy", content)
    if content.startswith(b"\x93NUMPY\x01"):
        with pytest.raises(ValueError, match=r"\w"):
            read_arrays(tmp_path / "arrays.npz")


def test_arrays_are_read(tmp_path: Path) -> None:
    """One from .npy, several from .npz; compressed ones, which could be of any size, are refused."""
    one = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "one.npy", one)
    np.savez(tmp_path / "two.npz", a=one, b=one + 1)
    np.savez_compressed(tmp_path / "small.npz", a=one)
    assert np.array_equal(read_array(tmp_path / "one.npy"), one)
    found = read_arrays(tmp_path / "two.npz")
    assert sorted(found) == ["a", "b"]
    assert np.array_equal(found["b"], one + 1)
    with pytest.raises(ValueError, match="compressed arrays"):
        read_arrays(tmp_path / "small.npz")
    with pytest.raises(ValueError, match="several arrays, expected one"):
        read_array(tmp_path / "two.npz")


def test_compressed_arrays_are_read_within_a_bound(tmp_path: Path) -> None:
    """A thousandth of its size as a file; what one says of itself is all that is unpacked of it."""
    many = np.zeros(1 << 20, np.uint8)
    np.savez_compressed(tmp_path / "bomb.npz", a=many, b=many)
    content = (tmp_path / "bomb.npz").read_bytes()
    assert len(content) < many.nbytes // 100
    found = read_arrays(io.BytesIO(content), 3 << 20)
    assert sum(array.nbytes for array in found.values()) == 2 * many.nbytes
    for source in (tmp_path / "bomb.npz", io.BytesIO(content)):
        with pytest.raises(ValueError, match="more than 1 MiB of arrays"):
            read_arrays(source, 1 << 20)
    # Two that say they are small: the sizes of the archive's directory, four bytes each.
    size = (many.nbytes + 128).to_bytes(4, "little")
    assert content.count(size) >= 2
    with pytest.raises(ValueError, match=r"\w"):
        read_arrays(io.BytesIO(content.replace(size, (500).to_bytes(4, "little"))), 1 << 20)


def test_arrays_that_lie_over_one_another_are_refused(tmp_path: Path) -> None:
    """One that the archive's directory has a hundred times would take its memory as often."""
    np.savez(tmp_path / "a.npz", a=np.zeros(1000))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.filelist += archive.filelist * 99
        archive._didModify = True  # type: ignore[attr-defined]
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert len(archive.infolist()) == 100
    with pytest.raises(ValueError, match="more than 0 MiB of arrays"):
        read_arrays(tmp_path / "a.npz")


def test_a_damaged_archive_of_arrays_is_refused(tmp_path: Path) -> None:
    """A changed byte: the archive has a checksum."""
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(100, np.float32))
    content = bytearray(buffer.getvalue())
    content[300] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="CRC"):
        read_arrays(tmp_path / "a.npz")
