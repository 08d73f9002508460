"""What a live source is to whoever reads it: pictures with their times, a loss that may be mended, or an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SourceLostError(Exception):
    """A source cannot be reached, or gives nothing more; the text says why, without anything secret.

    Whoever reads it decides whether to connect again; no user sees it as it is.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as it came: `rgb` (H, W, 3) uint8.

    `time_s` is the source's clock in seconds, None where it has none; `arrival_s` is the monotonic clock when the
    picture came, before it was decoded.
    """

    rgb: NDArray[np.uint8] = field(repr=False)
    time_s: float | None
    arrival_s: float


class PictureReader(AbstractContextManager["PictureReader"], Protocol):
    """One connection. `rate_fps` is what the source states, None where it states nothing."""

    @property
    def rate_fps(self) -> float | None:
        """Frames per second that the source states."""

    @property
    def pixel_aspect(self) -> Fraction:
        """Width to height of a pixel."""

    def __iter__(self) -> Iterator[Picture]:
        """Pictures as they come, until the source ends.

        Raises:
            SourceLostError: the connection is lost, or nothing came within the time-out.
            GmosError: what comes cannot be used.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveInput:
    """A source that was checked as far as that goes without opening it.

    Attributes:
        kind: the name of its kind.
        name: of its results; safe as the name of a file.
        shown: for messages and results; nothing secret is in it.
        open: connects, within so many seconds; raises `SourceLostError`, or `GmosError` where trying again is useless.
        waits: it gives a picture when it is asked for one, so that nothing need be dropped.
        returns: it may be connected again when it is lost.
        counted: its frames are all there, and are numbered by counting them, whatever their times say.
        rate_fps: frames per second, where that is known before it is opened.
        stride: frames between neighbours of a window, where that is known before.
        notes: remarks worth a line each.
    """

    kind: str
    name: str
    shown: str
    open: Callable[[float], PictureReader] = field(repr=False)
    waits: bool = False
    returns: bool = True
    counted: bool = False
    rate_fps: float | None = None
    stride: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for beside the source itself.

    `live`: what has an end is played as a stream. `dropping`: frames may be dropped, so that a file is played in its
    own time. `fps` and `stride` as given.
    """

    live: bool = False
    dropping: bool = False
    fps: float | None = None
    stride: int | None = None


class LiveSource(Protocol):
    """A kind of live source. `kind` names it."""

    kind: str

    def takes(self, given: str) -> bool:
        """Whether what was given is of this kind; cheap, and sure: no other kind is asked then."""

    def resolve(self, given: str, asked: Asked) -> LiveInput:
        """Check it, without opening what can be opened only once.

        Raises:
            GmosError: it cannot be used.
        """
