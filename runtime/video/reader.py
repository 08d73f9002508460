"""Frames of an .mp4 file in order, none of them lost."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ...errors import GmosError
from .sequence import Frame

RATE_JITTER = 0.1
"""Frame intervals that differ by less than this share of the shortest one count as even."""
RATE_JITTER_S = 0.0015
"""Files that store time in milliseconds round by up to one of them, in seconds."""
SWSCALE_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""H.273 matrix coefficients (code on a frame) to swscale's constants; unspecified means BT.601."""
SWSCALE_BT601 = 5
RGB_MATRIX = 0
"""H.273 code of frames that are stored as RGB: there is no matrix to apply."""

FIRST_BOXES = frozenset(
    (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"sidx")
)
"""Boxes that real files start with; QuickTime files may lack `ftyp`."""
MEDIA_BOXES = frozenset((b"moov", b"mdat", b"moof"))
"""Boxes without whose full length frames are missing. Other overruns are junk after the last box."""


class VideoReader:
    """Decodes the first video stream of an .mp4 file.

    Frames are turned the way the file's display matrix asks and converted to RGB with the matrix and
    the range that the stream states. Every decoded frame is a frame, however uneven their times.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container: InputContainer | None = None
        self._shortest_s = float("inf")
        self._longest_s = 0.0
        self._turned = False

    @property
    def is_variable_rate(self) -> bool:
        """Whether the frames read so far are unevenly spaced in time."""
        slack_s = max(RATE_JITTER_S, RATE_JITTER * self._shortest_s)
        return self._longest_s > self._shortest_s + slack_s

    def __enter__(self) -> VideoReader:
        try:
            # The format is pinned: a playlist or a subtitle file must not be followed because of its name.
            # The path is absolute: FFmpeg takes "a:b.mp4" for a protocol.
            self._container = av.open(str(self._path.absolute()), format="mp4")
        except av.FFmpegError as error:
            raise GmosError(
                f"{self._path} cannot be opened as an .mp4 video: {error.strerror}; expected a whole file; "
                f"re-encode it, for instance with ffmpeg"
            ) from error
        try:
            self.stream.thread_type = "AUTO"
        except GmosError:
            self._container.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def _opened(self) -> InputContainer:
        if self._container is None:
            raise RuntimeError("the reader is not open: use it in a with statement")
        return self._container

    @property
    def stream(self) -> VideoStream:
        """The stream that is decoded. Needs an open file.

        Raises:
            GmosError: there is none.
        """
        container = self._opened()
        # An audio file's cover picture is a video stream too.
        for stream in container.streams.video:
            if not stream.disposition & Disposition.attached_pic:
                return stream
        kinds = sorted({str(stream.type) for stream in container.streams}) or ["no"]
        raise GmosError(
            f"{self._path} has no video stream, only {' and '.join(kinds)}; expected a video in an .mp4 file"
        )

    @property
    def pixel_aspect(self) -> Fraction:
        """Width to height of a pixel of the frames read so far; 1 where the file says nothing."""
        aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        return 1 / aspect if self._turned else aspect

    def first_frame(self) -> Frame:
        """Decode the first frame, to check the file. Iterate over another reader to get them all.

        Raises:
            GmosError: as for iterating.
        """
        with closing(iter(self)) as frames:
            return next(frames)

    def __iter__(self) -> Generator[Frame, None, None]:
        """Yield every frame.

        Raises:
            GmosError: a frame is damaged, lost or of another size, or there is none at all.
        """
        ledger = FrameLedger()
        first_hw: tuple[int, int] | None = None
        previous_s = 0.0
        for index, decoded in enumerate(self._decoded(ledger)):
            if decoded.is_corrupt:
                raise self._broken(index, "is damaged")
            hw = (decoded.height, decoded.width)
            first_hw = first_hw or hw
            if hw != first_hw:
                raise GmosError(
                    f"{self._path}: frame {index} is {hw[1]}x{hw[0]} pixels and the frames before it are "
                    f"{first_hw[1]}x{first_hw[0]}; expected one size; re-encode the video or split it there"
                )
            time_s = self._time_s(index, decoded, ledger)
            if index:
                self._shortest_s = min(self._shortest_s, time_s - previous_s)
                self._longest_s = max(self._longest_s, time_s - previous_s)
            previous_s = time_s
            matrix = self._matrix(decoded)
            self._turned = not matrix[0]
            yield Frame(index=index, rgb=oriented(self._rgb(decoded), matrix), time_s=time_s)
        if first_hw is None:
            raise GmosError(f"{self._path}: no frame can be decoded; expected a video; re-encode it")

    def _decoded(self, ledger: FrameLedger) -> Iterator[VideoFrame]:
        """Frames as the decoder gives them, each counted in `ledger`."""
        container, stream = self._opened(), self.stream
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise self._broken(ledger.frames, "is cut off: the file is shorter than its index says")
                ledger.enter(packet)
                for frame in packet.decode():
                    ledger.leave(frame)
                    yield frame
        except av.FFmpegError as error:
            raise self._broken(self._damaged_frame(ledger.frames), "cannot be decoded") from error
        first_lost = ledger.first_lost()
        if first_lost is not None:
            raise self._broken(self._damaged_frame(first_lost), "was dropped by the decoder")

    def _damaged_frame(self, at_least: int) -> int:
        """Which frame it is that several threads failed on: one thread at a time can tell.

        `at_least` is the first frame that did not come out, the answer if one thread finds nothing wrong.
        """
        times: list[int] = []
        failed: int | None = None
        with VideoReader(self._path) as reader:
            container, stream = reader._opened(), reader.stream
            stream.thread_type, stream.thread_count = "NONE", 1
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None and not packet.is_discard:
                    times.append(packet.pts)
                if failed is not None:
                    continue
                try:
                    packet.decode()
                except av.FFmpegError:
                    failed = packet.pts
        return at_least if failed is None else sum(time < failed for time in times)

    def _broken(self, index: int, what: str) -> GmosError:
        return GmosError(
            f"{self._path}: frame {index} (counted from 0) {what}; expected a whole video; "
            f"copy it again, re-encode it or cut it before that frame"
        )

    def _time_s(self, index: int, frame: VideoFrame, ledger: FrameLedger) -> float:
        if frame.pts is None or frame.time_base is None:
            return index / float(self.stream.average_rate or 1)
        return float((frame.pts - ledger.times[0]) * frame.time_base)

    def _matrix(self, frame: VideoFrame) -> tuple[int, int, int, int]:
        """The display matrix without its offsets as signs: (a, b, c, d)."""
        raw = frame.side_data.get("DISPLAYMATRIX")
        if not isinstance(raw, SideData):
            return (1, 0, 0, 1)
        # Native byte order, 16.16 fixed point, rows (a b u) (c d v) (x y w).
        a, b, _, c, d = struct.unpack("=5i", bytes(raw)[:20])
        if not ((b == c == 0 and a and d) or (a == d == 0 and b and c)):
            raise GmosError(
                f"{self._path} asks to be turned by an angle that is not a multiple of 90 degrees; "
                f"re-encode it upright, for instance with ffmpeg"
            )
        return _sign(a), _sign(b), _sign(c), _sign(d)

    @staticmethod
    def _rgb(frame: VideoFrame) -> NDArray[np.uint8]:
        # PyAV before 17 ignores the matrix a stream states unless it is told, and with it the range:
        # colours shift by up to 20. Naming it on both sides gives the same pixels in PyAV 14 to 18.
        if frame.colorspace == RGB_MATRIX:
            rgb = frame.reformat(format="rgb24")
        else:
            matrix = SWSCALE_MATRICES.get(frame.colorspace, SWSCALE_BT601)
            rgb = frame.reformat(
                format="rgb24",
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range=frame.color_range,
            )
        return np.ascontiguousarray(rgb.to_ndarray(), dtype=np.uint8)


class FrameLedger:
    """Counts packets in and frames out, by time stamp where there is one.

    With several threads a decoder may drop frames without an error, which would shorten a video and
    shift every mask after it.
    """

    def __init__(self) -> None:
        self._waiting: Counter[int] = Counter()
        self._packets = 0
        self._interlaced = False
        self.times: list[int] = []
        self.frames = 0

    def enter(self, packet: Packet[VideoStream]) -> None:
        """A packet goes in. Empty ones, and those the file itself marks as not shown, do not count."""
        if packet.size and not packet.is_discard:
            self._packets += 1
            if packet.pts is not None:
                self._waiting[packet.pts] += 1

    def leave(self, frame: VideoFrame) -> None:
        """A frame comes out."""
        self.frames += 1
        self._interlaced |= frame.interlaced_frame
        if frame.pts is not None:
            self.times.append(frame.pts)
            self._waiting[frame.pts] -= 1

    def first_lost(self) -> int | None:
        """The first frame that did not come out although all packets went in, None if all did.

        Frames before the first one out do not count: they belong to a group of pictures that was cut
        on purpose. Neither does interlaced video, whose two fields may come in two packets.
        """
        first = min(self.times, default=0)
        early = sum(count for time, count in self._waiting.items() if time < first and count > 0)
        if self._interlaced or self._packets - self.frames - early <= 0:
            return None
        late = [time for time, count in self._waiting.items() if time > first and count > 0]
        return sum(time < min(late) for time in self.times) if late else self.frames


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def oriented(rgb: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Turn and mirror (H, W, 3) by the signs (a, b, c, d) of a display matrix.

    A pixel at (x, y), x to the right and y down, is shown at (a x + c y, b x + d y).
    """
    a, b, c, d = matrix
    if a:
        return np.ascontiguousarray(rgb[::d, ::a])
    return np.ascontiguousarray(rgb.transpose(1, 0, 2)[::b, ::c])


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
