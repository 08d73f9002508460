"""Whole, cut and foreign .mp4 files, judged by their boxes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.video.mp4_boxes import check_mp4_complete


def box(kind: bytes, content: bytes = b"", *, missing: int = 0, wide: bool = False) -> bytes:
    """One box; `missing` bytes are promised and not there; `wide` boxes have 64-bit lengths."""
    length = len(content) + missing + (16 if wide else 8)
    if wide:
        return struct.pack(">I4sQ", 1, kind, length) + content
    return struct.pack(">I4s", length, kind) + content


FTYP, MOOV = box(b"ftyp", b"isom"), box(b"moov", bytes(40))


@pytest.mark.parametrize(
    "content",
    [
        FTYP + MOOV + box(b"mdat", bytes(100)),
        FTYP + box(b"mdat", bytes(100)) + MOOV,
        FTYP + box(b"mdat", bytes(100), wide=True) + MOOV,
        FTYP + MOOV + struct.pack(">I4s", 0, b"mdat") + bytes(100),
        FTYP + MOOV + box(b"mdat", bytes(100)) + bytes(33),
        FTYP + MOOV + box(b"mdat", bytes(100)) + b"\xffjunk after the end",
        MOOV + box(b"mdat", bytes(9)),
    ],
    ids=["faststart", "index last", "64-bit", "open end", "zero padding", "junk", "no ftyp"],
)
def test_whole_files_pass(tmp_path: Path, content: bytes) -> None:
    """Every legal order, and what some tools leave after the end."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    check_mp4_complete(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\).*record it again"),
        (b"Hello, this is a text file.\n", "is not an MP4 file, whatever its name says"),
        (b"short", "is not an MP4 file"),
        (bytes(64), "is not an MP4 file"),
        (b"\x1aE\xdf\xa3 Matroska", "is not an MP4 file"),
        (FTYP + MOOV + box(b"mdat", bytes(100), missing=77), "truncated: 77 of 245 bytes are missing"),
        (FTYP + box(b"mdat", bytes(100), missing=77, wide=True), "truncated: 77 of 205 bytes are missing"),
        (FTYP + box(b"moov", bytes(10), missing=30), "truncated: 30 of"),
        (FTYP + MOOV + box(b"moof", b"", missing=30), "truncated: 30 of"),
        (FTYP + box(b"mdat", bytes(100)), "no index .no moov box.*never finished"),
        (FTYP + struct.pack(">I4s", 0, b"mdat") + bytes(100), "no index"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    """Empty, foreign, cut, or left behind by a recorder that crashed."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(GmosError, match=message):
        check_mp4_complete(path)


@pytest.mark.parametrize("faststart", [True, False])
def test_every_cut_of_a_real_file_is_seen(make_video: Callable[..., Path], faststart: bool) -> None:
    """Wherever a download stopped."""
    path = make_video(faststart=faststart)
    content = path.read_bytes()
    check_mp4_complete(path)
    for length in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(GmosError):
            check_mp4_complete(path)
