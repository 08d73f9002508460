"""Options that leave computations out: the levers of a run, and GMOS's second pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..options import flag, option, together

GROUP = "Less computation"

lever_options = together(
    option(
        "recipe",
        GROUP,
        "Levers as gmos-export tune found them: a recipe's name in the bundle, its file, or exact for none.  [default: "
        "exact]",
        metavar="NAME|FILE",
    ),
    flag(
        "mos_i_only",
        GROUP,
        "Leave GMOS's second pass out: MOS-I as it is, and no MOS. Left out later, --resume does only the second pass.",
    ),
    option(
        "geometry_every",
        GROUP,
        "Run the Pi3 decoder on every N-th frame, 1 to 64, and interpolate its features between; 1 is as published. It "
        "changes masks: docs/speed.md.",
        type=int,
        default=1,
        metavar="N",
    ),
    option(
        "geometry_change",
        GROUP,
        "Of --geometry_every: also run it between two of its frames whose DINO tokens differ by more than this share, "
        "0 or more.  [default: never]",
        type=float,
        metavar="SHARE",
    ),
    option(
        "propose_every",
        GROUP,
        "GMOS: propose objects on every N-th frame, 1 to 64, and on those before one that calls for a prompt; 1 is as "
        "published. It changes masks: docs/speed.md.",
        type=int,
        default=1,
        metavar="N",
    ),
    option(
        "pi3_area",
        GROUP,
        "Pixels of a frame as Pi3 sees it, at most, 196 or more: half of them cost less than half. It changes masks; "
        "engines must have been built for the size (gmos-export onnx --resolution).  [default: as the networks]",
        type=int,
        metavar="PIXELS",
    ),
)


def given_levers(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given with `lever_options`, as arguments of `RunOptions`.

    Raises:
        GmosError: a value is out of range.
    """
    from ..runtime.levers import LEVERS, Levers  # noqa: PLC0415 - --help does not pay for dataclasses

    return {
        "levers": Levers(**{name: options[name] for name in LEVERS}),
        "mos_i_only": options["mos_i_only"],
    }
