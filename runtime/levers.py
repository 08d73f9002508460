"""The levers of a run that trade masks for time; at their exact settings nothing changes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..errors import GmosError
from .contract import SIZES, ModelSpec

EXACT_EVERY = 1
"""Of --geometry_every and --propose_every: every frame, as published."""

MOST_EVERY = 64
"""Many times what keeps masks; it bounds the frames that wait for the next one whose geometry is computed."""

DENSE_FRAMES = 3
"""Frames at the start of a video that are always proposed: the best of them starts the tracks."""


LEVERS = ("geometry_every", "geometry_change", "propose_every", "pi3_area")
"""Names of the levers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levers:
    """How many frames get geometry and proposals of their own.

    `geometry_every` G: the Pi3 decoder runs on every G-th frame and the last one, and the features of those between
    are interpolated. `geometry_change`: where the tokens of two such neighbours differ by more, those between are
    decoded after all; a share of their size, None never. `propose_every` K: GMOS proposes on every K-th frame, and
    on the K-1 before one whose proposals call for a prompt. `pi3_area`: pixels of a frame as Pi3 sees it, at most;
    None: as many as the networks were made for.

    Raises:
        GmosError: a value is out of range.
    """

    geometry_every: int = EXACT_EVERY
    geometry_change: float | None = None
    propose_every: int = EXACT_EVERY
    pi3_area: int | None = None

    def __post_init__(self) -> None:
        for name in ("geometry_every", "propose_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_EVERY:
                raise GmosError(
                    f"--{name} {value!r}: expected a whole number of frames from 1 to {MOST_EVERY}"
                )
        area, (least, most) = self.pi3_area, SIZES["pi3_area_px"]
        if area is not None and (
            isinstance(area, bool) or not isinstance(area, int) or not least <= area <= most
        ):
            raise GmosError(f"--pi3_area {area!r}: expected a whole number of pixels, such as 127500")
        change = self.geometry_change
        if change is None:
            return
        number = isinstance(change, int | float) and not isinstance(change, bool)
        if not number or not math.isfinite(change) or change < 0:
            raise GmosError(f"--geometry_change {change!r}: expected a share of 0 or more, such as 0.1")
        if self.geometry_every == EXACT_EVERY:
            raise GmosError(
                f"--geometry_change {change:g} says between which frames geometry is not interpolated; give "
                "--geometry_every of 2 or more with it, or leave it out"
            )

    @property
    def dense(self) -> bool:
        """Whether every frame has geometry and proposals of its own."""
        return self.geometry_every == self.propose_every == EXACT_EVERY

    def settings(self) -> dict[str, Any]:
        """Those that are not at their exact settings, as JSON values."""
        return {name: getattr(self, name) for name in LEVERS if getattr(self, name) != getattr(EXACT, name)}

    def sized(self, model: ModelSpec) -> ModelSpec:
        """A model whose Pi3 frames have at most `pi3_area` pixels."""
        return model if self.pi3_area is None else replace(model, pi3_area_px=self.pi3_area)

    def waiting_frames(self, reach: int) -> int:
        """Frames whose tokens or geometry wait beside those of an exact run, whose windows reach so far, at most.

        Between frames with geometry of their own the one before and the one behind are kept, with the tokens that
        lie between; a look back computes those of all frames that it proposes.
        """
        between = 2 * (self.geometry_every - 1)
        return between + (self.propose_every - 1 + 2 * reach if self.propose_every > EXACT_EVERY else 0)

    def require_file(self) -> None:
        """Refuse levers that need frames which a stream has not got yet.

        Raises:
            GmosError: such a lever is not at its exact setting.
        """
        for name, value in self.settings().items():
            if name == "pi3_area":
                continue
            raise GmosError(
                f"--{name} {value} is for files: a live answer would wait for frames that are still to come; leave "
                "it out"
            )


EXACT = Levers()
"""As published."""
