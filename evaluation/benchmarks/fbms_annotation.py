"""FBMS-59's own annotation files: PGM or PPM masks of some frames, with rules that differ by sequence."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...errors import GmosError
from .label_maps import Mask, open_image
from .sequence_trees import list_frames

_FOREGROUND_ABOVE = 0.1
"""Grey level, as a share of white, above which a pixel belongs to an object (motion-grouping protocol)."""

_FOREGROUND_ABOVE_IN = {"marple7": 0.05, "marple2": 0.4}
"""Sequences whose objects are drawn darker, or whose background is lighter."""

_WHITE = 0.99
"""PPM files draw the background white: from this grey level on."""

_LAST_NUMBER = re.compile(r"(\d+)(?=\D*$)")


def fbms_annotations(directory: Path, frame_names: list[str]) -> list[tuple[str, tuple[Path, ...]]]:
    """Annotated frames of one `GroundTruth` folder, as (frame name, files).

    An annotation's number is its frame's position, counted from 1. PPM files are used where there
    are any, without the `PROB` ones.

    Raises:
        GmosError: a file has no number, or a number that no frame has.
    """
    files = [path for path in list_frames(directory, (".ppm",)) if "PROB" not in path.name]
    files = files or list_frames(directory, (".pgm", ".png"))
    numbered: dict[int, Path] = {}
    for path in files:
        match = _LAST_NUMBER.search(path.stem)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(frame_names):
            raise GmosError(
                f"{path}: expected a name that ends in the frame's number, 1 to {len(frame_names)}"
                " (the frames beside GroundTruth); check that the sequence is complete"
            )
        numbered[number] = path
    return [(frame_names[number - 1], (numbered[number],)) for number in sorted(numbered)]


def read_fbms_mask(path: Path, sequence: str) -> Mask:
    """The merged objects of one annotation file, bool (H, W)."""
    grey = np.asarray(open_image(path).convert("L"), dtype=np.float64) / 255
    if path.suffix.lower() == ".ppm":
        grey[grey > _WHITE] = 0.0
    return np.asarray(grey > _FOREGROUND_ABOVE_IN.get(sequence, _FOREGROUND_ABOVE))
