"""Whether an .mp4 file is whole, from the list of its outermost boxes (ISO/IEC 14496-12, section 4.2)."""

from __future__ import annotations

import struct
from pathlib import Path

from ...errors import GmosError

FIRST_BOXES = frozenset(
    (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"sidx")
)
"""Boxes that real files start with; QuickTime files may lack `ftyp`."""
MEDIA_BOXES = frozenset((b"moov", b"mdat", b"moof"))
"""Boxes without whose full length frames are missing. Other overruns are junk after the last box."""


def check_mp4_complete(path: Path) -> None:
    """Raise unless the file has an index and every byte that its boxes promise.

    FFmpeg plays a cut file up to the cut and then just ends, which would silently shorten a video.

    Raises:
        GmosError: empty file, not an MP4 file, cut off, or never finished by its recorder.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise GmosError(f"{path} is empty (0 bytes): expected an .mp4 video; copy or record it again")
    seen: list[bytes] = []
    with path.open("rb") as file:
        start = 0
        while start + 8 <= size:
            file.seek(start)
            length, kind = struct.unpack(">I4s", file.read(8))
            if length == 1:
                length = int.from_bytes(file.read(8), "big")
            elif length == 0:
                length = size - start
            if not seen and (kind not in FIRST_BOXES or length < 8):
                break
            missing = start + length - size
            if missing > 0 and kind in MEDIA_BOXES:
                raise GmosError(
                    f"{path} is truncated: {missing} of {size + missing} bytes are missing; "
                    f"expected a whole .mp4 file; copy or download it again"
                )
            if length < 8:
                break
            seen.append(kind)
            start += length
    if not seen:
        raise GmosError(
            f"{path} is not an MP4 file, whatever its name says; expected an .mp4 video; convert it, for "
            f"instance with ffmpeg"
        )
    if b"moov" not in seen:
        raise GmosError(
            f"{path} has no index (no moov box), so it is truncated or its recording was never finished; "
            f"expected a whole .mp4 file; copy it again or repair it"
        )
