"""The published thresholds of the two propagation stages."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ...errors import GmosError


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Constants of the published implementation (arXiv 2605.30352).

    All comparisons are strict and made in float32, except where a comment says otherwise.
    """

    motion: float = 0.5
    """A proposal moves above this motion probability."""
    iou: float = 0.7
    """A proposal is trusted above this predicted mask IoU."""
    match_iou: float = 0.95
    """A matched proposal reinforces its object above this IoU with the object's mask."""
    new_object_precision: float = 0.3
    """A proposal may start an object while less than this share of it lies in any tracked mask."""
    motion_transfer_precision: float = 0.5
    """An object moves on a frame where more than this share of its mask is moving proposals."""
    moving_frames: float = 0.03
    """MOS drops an object that moves on less than this share of all frames."""
    max_objects: int = 10
    """Objects in a video, at most."""
    prompt_gap_frames: int = 5
    """An object is reinforced only this many frames away from each of its prompts (at least)."""
    stage2_share: float = 0.1
    """Stage 2 prompts an object on this share of the frames where it has an IoU (rounded up)."""
    stage2_iou: float = 0.95
    """A stage-2 prompt needs at least this object IoU (not strict)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float) and not 0 <= value <= 1:
                raise GmosError(f"threshold {field.name} is {value}; expected a number from 0 to 1")
            if isinstance(field.default, int) and value < 1:
                raise GmosError(f"threshold {field.name} is {value}; expected a whole number from 1 up")


def parse_thresholds(text: str | None) -> Thresholds:
    """Thresholds as options spell them, "motion=0.4,max_objects=3"; what is not named is as published.

    Raises:
        GmosError: an unknown name, a value that is no number or out of range, or a name given twice.
    """
    known = {field.name: int if isinstance(field.default, int) else float for field in fields(Thresholds)}
    given: dict[str, Any] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in known or name in given:
            what = "is given twice" if name in given else "is no threshold"
            raise GmosError(
                f"--thresholds {text}: {name!r} {what}; expected NAME=VALUE of {', '.join(known)}"
            )
        try:
            given[name] = known[name](value)
        except ValueError as error:
            raise GmosError(
                f"--thresholds {text}: {name} is {value!r}; expected a number, as in {name}={getattr(PUBLISHED, name)}"
            ) from error
    return Thresholds(**given)


PUBLISHED = Thresholds()
