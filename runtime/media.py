"""What writers of results know of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.packet import Packet

OverlayStyle = Literal["labelled", "published"]
"""How overlays are drawn: for people, or as the published implementation draws them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Coded sound: what it is, and its packets, whose times grow and count from the first frame."""

    stream: AudioStream
    packets: Iterator[Packet[AudioStream]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A video, and what was asked for.

    `video_hw` height and width in pixels; `pixel_aspect` width to height of one; `fps` frames per second of overlays;
    `stride` in frames. `time_base_s` is the unit of frame times in seconds; None: one frame. `source` is where the
    video was read from, `frame_names` the files of a directory of frames. `sequence` names the results, `settings` is
    what changes them, with the networks' hashes; who files the results fills both in. `overlay` is how overlays are
    drawn; `sound` gives theirs from its start, where there is any.
    """

    video_hw: tuple[int, int]
    fps: float
    pixel_aspect: Fraction = Fraction(1)
    time_base_s: Fraction | None = None
    stride: int | None = None
    source: str = ""
    frame_names: tuple[str, ...] = field(default=(), repr=False)
    sequence: str = ""
    overlay: OverlayStyle = "labelled"
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sound: Callable[[], AbstractContextManager[Sound | None]] | None = field(
        default=None, repr=False, compare=False
    )

    def frame_name(self, index: int) -> str:
        """The file of a frame: its own, or for a video 00000.jpg and so on, as `ffmpeg -start_number 0` writes them."""
        return self.frame_names[index] if self.frame_names else f"{index:05d}.jpg"
