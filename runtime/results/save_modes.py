"""What --save-mode can ask for, and where each result is filed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal

from ...errors import GmosError
from ..contract import Variant

SaveMode = Literal["mask", "mp4", "prob"]
ResultName = Literal["mos-i", "mos", "foreground"]

FOLDERS: Mapping[Variant, Mapping[SaveMode, Mapping[ResultName, str]]] = {
    "gmos": {
        "mask": {"mos-i": "mos-i_frame", "mos": "mos_frame"},
        "mp4": {"mos-i": "mos-i_mp4", "mos": "mos_mp4"},
    },
    "gmos-s": {
        "mask": {"foreground": "frame"},
        "mp4": {"foreground": "mp4"},
        "prob": {"foreground": "prob"},
    },
}
"""Folder of each result by variant and mode (published implementation)."""
DEFAULT_MODE: Mapping[Variant, SaveMode] = {"gmos": "mask", "gmos-s": "prob"}


def parse_save_mode(text: str | None, variant: Variant) -> frozenset[SaveMode]:
    """Modes of a `+`-separated list such as "mask+mp4"; None stands for the variant's default.

    Raises:
        GmosError: empty, unknown or repeated modes, or one that the variant does not have.
    """
    if text is None:
        return frozenset((DEFAULT_MODE[variant],))
    available = FOLDERS[variant]
    known = {mode for folders in FOLDERS.values() for mode in folders}
    expected = f"expected {', '.join(available)}, or several joined by +"
    modes: set[SaveMode] = set()
    for part in text.split("+"):
        mode = part.strip().lower()
        if mode not in known:
            raise GmosError(f"--save-mode {text!r}: {mode!r} is no mode; {expected}")
        # Iterating over the table gives the literal type back.
        matches = [candidate for candidate in available if candidate == mode]
        if not matches:
            raise GmosError(f"--save-mode {text!r}: {variant} has no mode {mode!r}; {expected}")
        if matches[0] in modes:
            raise GmosError(f"--save-mode {text!r}: {mode!r} is named twice; {expected}")
        modes.add(matches[0])
    return frozenset(modes)


def target(variant: Variant, mode: SaveMode, result: ResultName, sequence: str) -> PurePosixPath:
    """Where a result of a sequence belongs, relative to the output place: a directory, or an .mp4 file."""
    name = f"{sequence}.mp4" if mode == "mp4" else sequence
    return PurePosixPath(FOLDERS[variant][mode][result], name)
