"""Which frames of a video went into the decoder and have not come out."""

from __future__ import annotations

from collections import Counter

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream


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
