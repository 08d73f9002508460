"""What `gmos-export tune` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GmosError
from ..networks import NetworkChoice
from ..runtime.bundle.recipe import EXACT_RECIPE, NAME

SEARCHED = ("geometry", "propose", "conditioning", "area", "local", "precision")
"""Levers that are tried; `geometry` is --geometry_every with and without --geometry_change, `area` --pi3_area.

`local` is --local_layers, and `precision` --precision of checkpoints or other bundles.
"""

ROUNDS = 3
"""Runs of each finalist and of the exact run, in turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """Options as the command has them; `out` is the recipe's file, None for the bundle's or beside it.

    `other_bundles` hold the same networks, made otherwise.

    Raises:
        GmosError: a value is out of range.
    """

    inputs: tuple[Path | str, ...]
    networks: NetworkChoice
    target_masks: float
    held_out: tuple[Path, ...] = ()
    other_bundles: tuple[Path, ...] = ()
    levers: tuple[str, ...] = SEARCHED
    budget_minutes: float = 60.0
    frames: int | None = None
    fps: float | None = None
    stride: int | None = None
    seed: int = 0
    rounds: int = ROUNDS
    name: str = "tuned"
    out: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.target_masks <= 1:
            raise GmosError(
                f"--target_masks {self.target_masks:g}: expected a mean IoU above 0, up to 1, such as 0.95"
            )
        if not self.levers or set(self.levers) - set(SEARCHED):
            raise GmosError(f"--levers {','.join(self.levers)}: expected some of {', '.join(SEARCHED)}")
        if self.other_bundles and (self.networks.bundle is None or "precision" not in self.levers):
            raise GmosError(
                f"--other_bundle {self.other_bundles[0]}: tried as the lever precision beside --bundle; give --bundle, "
                "and leave precision among --levers"
            )
        if not self.budget_minutes > 0:
            raise GmosError(f"--budget_minutes {self.budget_minutes:g}: expected more than 0")
        for name in ("frames", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise GmosError(f"--{name} {value}: expected 1 or more")
        if not NAME.fullmatch(self.name) or self.name == EXACT_RECIPE:
            raise GmosError(f"--name {self.name}: expected letters, digits, - and _, and not {EXACT_RECIPE}")

    @property
    def budget_s(self) -> float:
        """Seconds of the whole search."""
        return 60 * self.budget_minutes

    def settings(self) -> dict[str, Any]:
        """What decides measurements and their order besides videos and networks, as JSON values."""
        names = ("target_masks", "levers", "frames", "seed", "rounds")
        return {name: getattr(self, name) for name in names}
