"""The sound of a video file as it is coded, for whoever writes the frames anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from ..media import Sound
from .containers import open_container

PREROLL_S = Fraction(1, 10)
"""Sound before the first frame that is kept, and not played: decoders need up to 80 ms (Opus) to be right."""


def sound_stream(container: InputContainer) -> AudioStream | None:
    """The stream that players play unless they are told otherwise."""
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream) or stream.codec_context is None:
        return None
    return stream if stream.codec_context.sample_rate else None


@contextmanager
def open_sound(path: Path, start_s: Fraction) -> Iterator[Sound | None]:
    """The sound of a file whose first frame is shown at `start_s` of the file's own time."""
    with open_container(path) as container:
        stream = sound_stream(container)
        yield None if stream is None else Sound(stream=stream, packets=_packets(container, stream, start_s))


def _packets(
    container: InputContainer, stream: AudioStream, start_s: Fraction
) -> Iterator[Packet[AudioStream]]:
    last: int | None = None
    for packet in container.demux(stream):
        if not packet.size or packet.pts is None or packet.time_base is None or packet.is_corrupt:
            continue
        pts = packet.pts - round(start_s / packet.time_base)
        early = (pts + (packet.duration or 0)) * packet.time_base <= -PREROLL_S
        # An edit list hides a part; files that were joined may go back in time.
        if early or (packet.is_discard and pts >= 0) or (last is not None and pts <= last):
            continue
        packet.pts = packet.dts = last = pts
        yield packet
