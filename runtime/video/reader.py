"""Frames of a video file in order, none of them lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...errors import GmosError
from .coded_pictures import FROM_KEY_FRAME, JOINED, damage_test, picture_test
from .containers import open_container
from .rgb import display_matrix, oriented, rgb_of
from .sequence import Frame, shown_rate
from .sound import sound_stream
from .stream_facts import MATRICES, RANGES, TURNS, StreamFacts

RATE_JITTER = 0.1
"""Frame intervals that differ by less than this share of the shortest one count as even."""
RATE_JITTER_S = 0.0015
"""Files that store time in milliseconds round by up to one of them, in seconds."""
INCOMPLETE = "is incomplete: the file was cut off, or a part of it is missing"


class VideoReader:
    """Decodes the first video stream of a file.

    Frames are turned the way the file's display matrix asks and converted to RGB with the matrix and
    the range that the stream states. Every decoded frame is a frame, however uneven their times.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container: InputContainer | None = None
        self._stack = ExitStack()
        self._first: VideoFrame | None = None
        self._shortest_s = float("inf")
        self._longest_s = 0.0
        self._turned = False
        self._gone: list[str] = []

    @property
    def is_variable_rate(self) -> bool:
        """Whether the frames read so far are unevenly spaced in time."""
        slack_s = max(RATE_JITTER_S, RATE_JITTER * self._shortest_s)
        return self._longest_s > self._shortest_s + slack_s

    @property
    def notes(self) -> tuple[str, ...]:
        """See `FrameReader`."""
        uneven = ("uneven frame times: the stride follows the average rate, overlays keep the times",)
        return (*self._gone, *(uneven if self.is_variable_rate else ()))

    def __enter__(self) -> VideoReader:
        with ExitStack() as stack:
            self._container = stack.enter_context(open_container(self._path))
            self.stream.thread_type = "AUTO"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._container = None
        self._stack.close()

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
        streams = self._videos()
        if streams and streams[0].codec_context is None:
            raise GmosError(
                f"{self._path} has video for which this PyAV {av.__version__} has no decoder; re-encode it, "
                f"for instance with ffmpeg"
            )
        if streams:
            return streams[0]
        kinds = sorted({str(stream.type) for stream in container.streams})
        others = f"no video stream, only {' and '.join(kinds)}" if kinds else "no video stream, and no other"
        raise GmosError(f"{self._path} has {others}; expected a video")

    def _videos(self) -> list[VideoStream]:
        # An audio file's cover picture is a video stream too.
        return [one for one in self._opened().streams.video if not one.disposition & Disposition.attached_pic]

    def facts(self) -> StreamFacts:
        """What the file says of the stream, known when the first frame has come."""
        if self._first is None:
            raise RuntimeError("no frame was decoded yet")
        stream, first = self.stream, self._first
        sound, aspect = sound_stream(self._opened()), self.pixel_aspect
        return StreamFacts(
            container=self._opened().format.name,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=first.format.name,
            stream=stream.index,
            video_streams=len(self._videos()),
            rate_fps=shown_rate(stream.average_rate) if stream.average_rate else None,
            rotation=TURNS[display_matrix(first, self._path)],
            pixel_aspect=f"{aspect.numerator}:{aspect.denominator}",
            matrix=MATRICES.get(first.colorspace, "unspecified"),
            range=RANGES.get(first.color_range, "unspecified"),
            sound=None if sound is None else sound.codec_context.codec.canonical_name,
        )

    @property
    def start_s(self) -> Fraction:
        """When the first frame is shown, in seconds of the file's own time."""
        first = self._first
        if first is None or first.pts is None or first.time_base is None or self._reordered():
            return Fraction(0)
        return first.pts * first.time_base

    @property
    def pixel_aspect(self) -> Fraction:
        """Width to height of a pixel of the frames read so far; 1 where the file says nothing."""
        aspect = Fraction(self.stream.sample_aspect_ratio or 1)
        return 1 / aspect if self._turned else aspect

    def scan(self, count: int) -> list[Fraction]:
        """Read the whole file and decode nothing, which finds what is missing or overwritten in it.

        Returns:
            Presentation times in seconds of its first packets, at most `count`.

        Raises:
            GmosError: a frame is damaged.
        """
        codec = self.stream.codec_context
        suspect = damage_test(codec.codec.canonical_name, codec.extradata)
        times: list[Fraction] = []
        suspected = False
        seen = 0
        try:
            for packet in self._opened().demux(self.stream):
                if packet.is_corrupt:
                    raise self._broken(seen, INCOMPLETE)
                if packet.size:
                    seen += 1
                    suspected = suspected or suspect(bytes(packet))
                    if len(times) < count and packet.pts is not None and packet.time_base is not None:
                        times.append(packet.pts * packet.time_base)
        except av.FFmpegError as error:
            raise self._broken(seen, f"cannot be read ({error.strerror})") from error
        failed = self._in_one_thread()[0] if suspected else None
        if failed is not None:
            raise self._broken(failed, "cannot be decoded")
        return times

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
            self._first = self._first or decoded
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
            matrix = display_matrix(decoded, self._path)
            self._turned = not matrix[0]
            try:
                rgb = rgb_of(decoded)
            except (av.FFmpegError, ValueError) as error:
                raise self._broken(index, "has pixels that cannot be converted to RGB") from error
            yield Frame(index=index, rgb=oriented(rgb, matrix), time_s=time_s)
        if first_hw is None:
            raise GmosError(f"{self._path}: no frame can be decoded; expected a video; re-encode it")

    def _decoded(self, ledger: FrameLedger) -> Iterator[VideoFrame]:
        """Frames as the decoder gives them, each counted in `ledger`."""
        try:
            for packet, owes, reachable in _samples(self._opened(), self.stream):
                if packet.is_corrupt:
                    raise self._broken(ledger.frames, INCOMPLETE)
                ledger.enter(packet, owes=owes)
                for frame in packet.decode() if reachable else ():
                    ledger.leave(frame)
                    yield frame
        except av.FFmpegError as error:
            failed, _ = self._in_one_thread()
            raise self._broken(ledger.frames if failed is None else failed, "cannot be decoded") from error
        early, lost, first_lost = ledger.missing()
        if early:
            self._gone.append(
                f"pictures before the first frame are not shown, as in ffmpeg (their number: {early}): the video was "
                f"cut where they refer to others before them"
            )
        if lost:
            failed, frames = self._in_one_thread()
            if failed is not None or frames != ledger.frames:
                raise self._broken(first_lost if failed is None else failed, "was dropped by the decoder")
            self._gone.append(
                f"pictures are not shown, as in ffmpeg (their number: {lost}, the first at frame {first_lost}, counted "
                f"from 0): where videos are cut and joined without encoding them anew, some refer to what is gone"
            )

    def _in_one_thread(self) -> tuple[int | None, int]:
        """Which frame it is that decoding fails on, which several threads cannot tell, and how many frames come."""
        times: list[int] = []
        failed: int | None = None
        frames = 0
        with VideoReader(self._path) as reader:
            container, stream = reader._opened(), reader.stream
            stream.thread_type, stream.thread_count = "NONE", 1
            for packet, owes, reachable in _samples(container, stream):
                if owes and packet.pts is not None and not packet.is_discard:
                    times.append(packet.pts)
                if failed is not None or not reachable:
                    continue
                try:
                    frames += len(packet.decode())
                except av.FFmpegError:
                    failed = packet.pts
        return None if failed is None else sum(time < failed for time in times), frames

    def _broken(self, index: int, what: str) -> GmosError:
        return GmosError(
            f"{self._path}: frame {index} (counted from 0) {what}; expected a whole video; "
            f"copy it again, re-encode it or cut it before that frame"
        )

    def _time_s(self, index: int, frame: VideoFrame, ledger: FrameLedger) -> float:
        if frame.pts is None or frame.time_base is None or self._reordered():
            return index / float(self.stream.average_rate or 1)
        return float((frame.pts - ledger.times[0]) * frame.time_base)

    def _reordered(self) -> bool:
        """AVI has no presentation times: where frames are reordered, those of the packets are in another order."""
        return self._opened().format.name == "avi" and bool(self.stream.codec_context.has_b_frames)


class _Sample(NamedTuple):
    """A packet, whether it owes a picture, and whether a decoder can make one of it."""

    packet: Packet[VideoStream]
    owes: bool
    reachable: bool


def _samples(container: InputContainer, stream: VideoStream) -> Iterator[_Sample]:
    """The packets of a stream.

    Where the decoder takes a packet without a picture for damage, it goes in with the next one that has one.
    """
    codec = stream.codec_context
    name = codec.codec.canonical_name
    owes_picture = picture_test(name, codec.extradata)
    held = b""
    reachable = name not in FROM_KEY_FRAME
    for packet in container.demux(stream):
        owes = packet.size > 0 and owes_picture(bytes(packet))
        reachable = reachable or packet.is_keyframe or not packet.size
        if packet.size and not owes and name in JOINED and not packet.is_corrupt:
            held += bytes(packet)
            continue
        if held and owes and not packet.is_discard:
            packet, held = _joined(held, packet), b""  # noqa: PLW2901 - the same one, with what came before it
        yield _Sample(packet, owes, reachable)


def _joined(before: bytes, packet: Packet[VideoStream]) -> Packet[VideoStream]:
    joined = cast("Packet[VideoStream]", Packet(before + bytes(packet)))
    joined.stream, joined.time_base = packet.stream, packet.time_base
    joined.pts, joined.dts, joined.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
    return joined


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

    def enter(self, packet: Packet[VideoStream], *, owes: bool) -> None:
        """A packet goes in. Those that owe no picture, or that the file itself marks as not shown, do not count."""
        if owes and not packet.is_discard:
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

    def missing(self) -> tuple[int, int, int]:
        """What did not come out although all packets went in: pictures before the first frame, others, their first.

        The former belong to a group of pictures whose beginning was cut off. In interlaced video nothing counts, as
        its two fields may come in two packets.
        """
        if self._interlaced:
            return 0, 0, 0
        first = min(self.times, default=0)
        early = sum(count for time, count in self._waiting.items() if time < first and count > 0)
        late = [time for time, count in self._waiting.items() if time > first and count > 0]
        lost = max(0, self._packets - self.frames - early)
        return early, lost, sum(time < min(late) for time in self.times) if late else self.frames
