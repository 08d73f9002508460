"""The formats of --save_mode: one registry, and what each format must be able to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ...errors import GmosError
from ..contract import Variant
from ..frame_result import FrameResult, ResultName
from ..media import Media, OverlayStyle
from .coco_format import CocoFormat, YoutubeVisFormat
from .mp4_writer import OverlayFormat
from .npz_format import NpzFormat
from .png_writer import MASKS, PROBABILITIES
from .tracks_format import TracksFormat
from .yolo_format import YoloFormat


class FrameWriter(Protocol):
    """Writes one result of one video, frame by frame in their order."""

    @property
    def frames_written(self) -> int:
        """Number of frames written so far."""

    def write(self, answer: FrameResult) -> None:
        """Add a frame.

        Raises:
            GmosError: the file cannot be written.
        """


class ResultFormat(Protocol):
    """A format: what --save_mode calls it, and who writes it.

    `mode` is its name. `folders` name the folder of each result that has it, by variant; a result is a file
    there with the ending `ending`, or a folder where that is empty. `needs_rgb` says that frames must come
    with their pictures.
    """

    mode: str
    folders: Mapping[Variant, Mapping[ResultName, str]]
    ending: str
    needs_rgb: bool

    def writer(self, path: Path, result: ResultName, media: Media) -> AbstractContextManager[FrameWriter]:
        """What writes a result to a path that does not exist yet.

        Left with an error it only closes its files, which are not worth keeping then.

        Raises:
            GmosError: this machine cannot write the format.
        """

    def is_whole(self, path: Path, frames: int) -> bool:
        """Whether a result of that many frames lies there."""


OVERLAYS: ResultFormat = OverlayFormat()

FORMATS: list[ResultFormat] = [
    MASKS,
    OVERLAYS,
    PROBABILITIES,
    TracksFormat(),
    CocoFormat(),
    YoutubeVisFormat(),
    YoloFormat(),
    NpzFormat(),
]
"""All formats, in the order in which they are named."""

DEFAULT_MODE: Mapping[Variant, str] = {"gmos": "mask", "gmos-s": "prob"}
"""The published implementation's."""


def register_format(added: ResultFormat) -> None:
    """Add a format.

    Raises:
        GmosError: there is one of that name, or one of its folders is another's.
    """
    taken = {folder for known in FORMATS for folder in _folders(known)}
    if any(known.mode == added.mode for known in FORMATS) or taken & _folders(added):
        raise GmosError(
            f"the result format {added.mode!r} has the name or a folder of another one; choose others"
        )
    FORMATS.append(added)


def needs_rgb(modes: Iterable[str]) -> bool:
    """Whether any of these modes draws over the frames."""
    wanted = set(modes)
    return any(known.needs_rgb for known in FORMATS if known.mode in wanted)


def drawing_settings(modes: Iterable[str], overlay: OverlayStyle) -> dict[str, str]:
    """What of drawing belongs into a result's settings: a style other than the usual, where anything is drawn."""
    return {"overlay": overlay} if overlay != "labelled" and needs_rgb(modes) else {}


def modes_of(variant: Variant) -> tuple[str, ...]:
    """The modes that a variant has."""
    return tuple(known.mode for known in FORMATS if variant in known.folders)


def parse_save_mode(text: str | None, variant: Variant) -> frozenset[str]:
    """Modes of a `+`-separated list such as "mask+mp4"; None stands for the variant's default.

    Raises:
        GmosError: empty, unknown or repeated modes, or one that the variant does not have.
    """
    if text is None:
        return frozenset((DEFAULT_MODE[variant],))
    available = modes_of(variant)
    known = {one.mode for one in FORMATS}
    expected = f"expected {', '.join(available)}, or several joined by +"
    modes: set[str] = set()
    for part in text.split("+"):
        mode = part.strip().lower()
        if mode not in known:
            raise GmosError(f"--save-mode {text!r}: {mode!r} is no mode; {expected}")
        if mode not in available:
            raise GmosError(f"--save-mode {text!r}: {variant} has no mode {mode!r}; {expected}")
        if mode in modes:
            raise GmosError(f"--save-mode {text!r}: {mode!r} is named twice; {expected}")
        modes.add(mode)
    return frozenset(modes)


def _folders(known: ResultFormat) -> set[str]:
    return {folder for by_result in known.folders.values() for folder in by_result.values()}
