"""Opens video files by what is in them, whole ones only, and never a file that another one names."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.format import ContainerFormat

from ...errors import GmosError
from ..files.regular_file import open_regular, open_unbuffered

NAMES_OTHERS = frozenset(
    (
        *(
            "avisynth",
            "concat",
            "dash",
            "dvdvideo",
            "hds",
            "hls",
            "applehttp",
            "image2",
            "image2pipe",
            "imf",
            "lavfi",
        ),
        *("libopenmpt", "mpjpeg", "rtp", "rtsp", "sap", "sdp", "smoothstreaming", "vapoursynth", "vobsub"),
        "webm_dash_manifest",
    )
)
"""Formats of FFmpeg that read other files, the network or a device, or run a script."""

NO_FILE = 1
"""FFmpeg's AVFMT_NOFILE: a format that opens what it reads by itself, such as a device."""

NO_PROTOCOL = "none"
"""The allow-list of protocols: the file itself comes by way of Python, so nothing is on it."""

READ_BYTES = 1 << 20
"""Read at once: few calls from FFmpeg into Python."""

SCRIPTS = (
    (b"ffconcat version", "a concat script"),
    (b"#EXTM3U", "an HLS playlist"),
    (b"<MPD", "a DASH manifest"),
    (b"v=0", "an SDP description"),
    (b"<SmoothStreamingMedia", "a Smooth Streaming manifest"),
    (b"[playlist]", "a playlist"),
    (b"rtsp://", "a playlist"),
    (b"http://", "a playlist"),
)
"""What files that name others begin with, or have soon after; only for messages: the formats are refused anyway."""

PICTURES = (
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"RIFF????WEBP",
    b"8BPS",
    b"%!PS",
    b"GIF8",
)
"""What single images begin with."""

HEAD_BYTES = 512

FIRST_BOXES = frozenset(
    (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"sidx")
)
"""Boxes that real MP4 files start with; QuickTime files may lack `ftyp`."""
MEDIA_BOXES = frozenset((b"moov", b"mdat", b"moof"))
"""Boxes without whose full length frames are missing. Other overruns are junk after the last box."""

MOST_BOXES = 1 << 20
"""At the top of an MP4 file: four hours of fragments of one frame each. Files of nothing else take minutes to read."""

EBML, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
"""First element of Matroska and WebM files, and the one that holds all the rest."""
RIFF_UNKNOWN = 0xFFFFFFFF
"""Length of a RIFF chunk whose writer could not go back."""

GIF, GIF_EXTENSION, GIF_PICTURE = b"GIF8", b"!", b","
"""A GIF file's beginning, and those of its blocks."""

Y4M, Y4M_FRAME = b"YUV4MPEG2 ", b"FRAME\n"
Y4M_COLOURS = re.compile(r"(?P<planes>420|422|444|411)(jpeg|mpeg2|paldv|(?P<deep>p(9|10|12|14|16)))?")
Y4M_SHARES = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "411": (4, 1)}
"""Luma samples for one of chroma, across and down."""


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """An open video file; its format is found by content, whatever its name says.

    Raises:
        GmosError: no video, or of a format that names other files or devices.
        OSError: the file cannot be read.
    """
    with open_unbuffered(path) as file:
        # Without its name, so that nothing is concluded from it, and never taken for a protocol or a pattern.
        file.name = "video"
        try:
            container = av.open(
                file,
                "r",
                metadata_errors="replace",
                buffer_size=READ_BYTES,
                container_options={"format_whitelist": allowed_formats(), "protocol_whitelist": NO_PROTOCOL},
            )
        except av.FFmpegError as error:
            raise _not_a_video(path, error) from error
        with container:
            yield container


@cache
def allowed_formats() -> str:
    """FFmpeg's list of the formats that may be read from a file: all but those that name others."""
    return ",".join(name for name in sorted(av.formats_available) if _reads_itself_only(name))


def _reads_itself_only(name: str) -> bool:
    if NAMES_OTHERS.intersection(name.split(",")) or name.endswith("_pipe"):
        return False
    try:
        known = ContainerFormat(name, "r")
    except ValueError:
        # It is only written.
        return False
    # A format without a file is a device or a network.
    return known.is_input and not known.flags & NO_FILE


def _not_a_video(path: Path, error: av.FFmpegError) -> GmosError:
    with open_regular(path) as file:
        head = file.read(HEAD_BYTES)
    for mark, kind in SCRIPTS:
        if mark in head.lstrip(b"\xef\xbb\xbf \r\n\t")[: HEAD_BYTES if mark.startswith(b"<") else len(mark)]:
            return GmosError(
                f"{path} is {kind}, which names other files; expected a file that holds the video itself; give the "
                f"files that it names, or one that was recorded from it"
            )
    webp = head[:4] + head[8:12] == b"RIFFWEBP"
    if webp and b"ANIM" in head:
        return GmosError(
            f"{path} is an animated WebP, which PyAV {av.__version__} does not read; make a GIF or a video "
            "of it first"
        )
    if webp or head.startswith(PICTURES):
        return GmosError(f"{path} is a single image; expected its directory {path.parent}, or a video file")
    return GmosError(
        f"{path} cannot be opened as a video ({error.strerror}); expected a whole video file of a format that "
        f"PyAV {av.__version__} reads; re-encode it, for instance with ffmpeg"
    )


def check_whole(path: Path) -> None:
    """Raise unless an MP4, Matroska, RIFF, GIF or Y4M file is whole by its headers, and an MP4 file has its index.

    FFmpeg plays a cut file up to the cut and then just ends, which would silently shorten a video. Files of other
    kinds pass: their headers promise nothing, and a cut shows in the frame that it goes through, if in any.

    Raises:
        GmosError: the file is empty, cut off, or was never finished by its recorder.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise GmosError(f"{path} is empty (0 bytes): expected a video; copy or record it again")
    with open_regular(path) as file:
        head = file.read(12)
        if head[4:8] in FIRST_BOXES:
            _check_boxes(path, file, size)
        elif head.startswith(EBML):
            _check_segment(path, file, size)
        elif head.startswith(b"RIFF"):
            _check_riff(path, file, size)
        elif head.startswith(GIF):
            _check_gif(path, file, size)
        elif head.startswith(Y4M):
            _check_y4m(path, file, size)


def _check_boxes(path: Path, file: BinaryIO, size: int) -> None:
    seen: set[bytes] = set()
    start = boxes = 0
    while start + 8 <= size:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        elif length == 0:
            length = size - start
        if kind in MEDIA_BOXES:
            _check_end(path, start + length, size)
        if length < 8:
            break
        seen.add(kind)
        start += length
        boxes += 1
        if boxes > MOST_BOXES:
            raise GmosError(
                f"{path} has more than {MOST_BOXES} boxes, as no video has; expected a video; record it again"
            )
    if b"moov" not in seen:
        raise GmosError(
            f"{path} has no index (no moov box), so it is truncated or its recording was never finished; "
            f"expected a whole video; copy it again or repair it"
        )


def _check_segment(path: Path, file: BinaryIO, size: int) -> None:
    """Of Matroska: the first element, and the segment after it unless its length is unknown, as in live recordings."""
    start = len(EBML)
    for following in (SEGMENT, b""):
        file.seek(start)
        first = file.read(1)
        if not first or not first[0]:
            return
        width = 9 - first[0].bit_length()
        length = int.from_bytes(first + file.read(width - 1), "big") & ((1 << 7 * width) - 1)
        start += width
        if length == (1 << 7 * width) - 1:
            return
        start += length
        if not following or file.seek(start) != start or file.read(4) != following:
            break
        start += len(following)
    _check_end(path, start, size)


def _check_riff(path: Path, file: BinaryIO, size: int) -> None:
    start = 0
    while True:
        file.seek(start)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            return
        length = int.from_bytes(head[4:], "little")
        if length == RIFF_UNKNOWN or not length:
            return
        _check_end(path, start + 8 + length, size)
        start += 8 + length + length % 2


def _check_gif(path: Path, file: BinaryIO, size: int) -> None:
    """Of the last block, whose parts tell their lengths. The byte that ends a GIF is not asked for: some lack it."""

    def read(count: int) -> bytes:
        data = file.read(count)
        if len(data) < count:
            _check_end(path, size + count - len(data), size)
        return data

    def skip_colours(flags: int) -> None:
        if flags & 0x80:
            read(3 << (flags & 7) + 1)

    file.seek(0)
    skip_colours(read(13)[10])
    while (kind := file.read(1)) in (GIF_EXTENSION, GIF_PICTURE):
        if kind == GIF_PICTURE:
            skip_colours(read(9)[8])
        # An extension's label or the width of a picture's codes, then parts up to an empty one.
        read(1)
        while length := read(1)[0]:
            read(length)


def _check_y4m(path: Path, file: BinaryIO, size: int) -> None:
    """Of the last frame: all have one length. Frames with notes of their own or in other colours than these pass."""
    file.seek(0)
    head = file.readline(HEAD_BYTES)
    start = len(head)
    fields = {field[:1]: field[1:] for field in head.decode("latin-1").split()[1:]}
    colours = Y4M_COLOURS.fullmatch(fields.get("C", "420"))
    first = file.readline(len(Y4M_FRAME))
    if not (
        colours and fields.get("W", "").isdecimal() and fields.get("H", "").isdecimal() and first == Y4M_FRAME
    ):
        return
    width, height = int(fields["W"]), int(fields["H"])
    across, down = Y4M_SHARES[colours["planes"]]
    samples = width * height + 2 * -(-width // across) * -(-height // down)
    length = len(Y4M_FRAME) + samples * (2 if colours["deep"] else 1)
    _check_end(path, start + -(-(size - start) // length) * length, size)


def _check_end(path: Path, end: int, size: int) -> None:
    if end > size:
        raise GmosError(
            f"{path} is truncated: {end - size} of {end} bytes are missing; expected a whole video; copy or download "
            f"it again"
        )
