"""The sound of an .mp4 file: packets copied as they are coded."""

from __future__ import annotations

import logging
from io import BytesIO
from typing import TYPE_CHECKING

import av
from av.container import OutputContainer
from av.packet import Packet

from ..media import Sound

if TYPE_CHECKING:
    from av.audio.stream import AudioStream

logger = logging.getLogger(__name__)

REFUSED = (av.FFmpegError, ValueError)
"""What PyAV raises where a container cannot hold a codec, or a packet is not as it must be."""

UNNAMED_PAIR = "2 channels"
"""FFmpeg's name for two channels of which a file does not say what they are."""


class SoundTrack:
    """Copies sound into an open .mp4 file, packet by packet as its frames come.

    Without sound, or with one that the file cannot hold, it does nothing; the log says so then.
    """

    def __init__(self, container: OutputContainer, sound: Sound | None, name: str) -> None:
        """Add the track, before anything is written.

        Args:
            container: the file.
            sound: what is copied.
            name: of the file, for the log.
        """
        self._container = container
        self._name = name
        self._sound: Sound | None = None
        if sound is None:
            return
        try:
            first = next(sound.packets, None)
        except REFUSED as error:
            _refuse_system_error(error)
            logger.warning("%s: its sound is left out: it is damaged (%s)", name, error)
            return
        if _holds(sound.stream, first):
            self._sound, self._track = sound, _added(container, sound.stream)
            self._next = first
        else:
            codec = sound.stream.codec_context.codec.canonical_name
            logger.info("%s: its sound (%s) is left out: an .mp4 file cannot hold it", name, codec)

    def write(self, until_s: float) -> None:
        """Copy what begins by this time. Damage ends the track, not the file; the log says when."""
        while self._sound is not None and self._next is not None:
            packet = self._next
            time_s = float((packet.pts or 0) * (packet.time_base or 0))
            if time_s > until_s:
                return
            try:
                packet.stream = self._track
                self._container.mux(packet)
                self._next = next(self._sound.packets, None)
            except REFUSED as error:
                _refuse_system_error(error)
                self._next = None
                logger.warning(
                    "%s: its sound ends at %.1f s, where it is damaged (%s)", self._name, time_s, error
                )


def _refuse_system_error(error: Exception) -> None:
    """The system's errors, a full disk for instance, concern the frames too."""
    if isinstance(error, OSError):
        raise error


def _added(container: OutputContainer, stream: AudioStream) -> AudioStream:
    """A track for a stream's packets."""
    track = container.add_stream_from_template(stream)
    # AVI and Matroska files say of uncompressed sound how many channels it has, and no more; an .mp4 file says which.
    if stream.codec_context.layout.name == UNNAMED_PAIR:
        track.codec_context.layout = "stereo"
    return track


def _holds(stream: AudioStream, first: Packet[AudioStream] | None) -> bool:
    """Whether an .mp4 file can hold a stream: FFmpeg tells when it begins one, or only when it ends it."""
    try:
        with av.open(BytesIO(), "w", format="mp4") as trial:
            track = _added(trial, stream)
            trial.start_encoding()
            if first is not None:
                packet = Packet(bytes(first))
                packet.pts = packet.dts = 0
                packet.time_base, packet.stream = first.time_base, track
                trial.mux(packet)
    except REFUSED:
        return False
    return True
