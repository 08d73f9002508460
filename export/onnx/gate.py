"""The gate: an exported network stays only if it computes what the reference computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...errors import GmosError
from ...runtime.parity import LIMITS, Array, OutputDifference, difference
from ...runtime.precision import Limits, PrecisionName

__all__ = ["LIMITS", "Array", "OutputDifference", "allowed", "check", "difference", "report"]


OWN_ERROR_SHARE = 2.0
"""How much further off than the reference at the same precision an export may be, where that exceeds the limits.

The reference keeps the sums between layers in float32, a graph rounds them too.
"""


def allowed(found: OutputDifference, precision: PrecisionName, own: Sequence[OutputDifference]) -> Limits:
    """The limits of a precision, or twice the reference's own error at that precision if that is known and more.

    Where a network amplifies rounding, PyTorch is off as well: that is no fault of the export.
    """
    limits = LIMITS[precision]
    for each in own:
        if each.finite and (each.output, each.lengths) == (found.output, found.lengths):
            return Limits(
                relative=max(limits.relative, OWN_ERROR_SHARE * each.relative),
                largest=max(limits.largest, OWN_ERROR_SHARE * each.largest),
                # Of nearly parallel vectors, one minus the cosine goes with the square of the error.
                cosine=min(limits.cosine, 1 - OWN_ERROR_SHARE**2 * (1 - each.cosine)),
                changed=max(limits.changed, OWN_ERROR_SHARE * each.changed),
            )
    return limits


def check(
    network: str,
    differences: Sequence[OutputDifference],
    precision: PrecisionName,
    own: Sequence[OutputDifference] = (),
) -> None:
    """Let an export through, or say which output of which network was off and by how much.

    Args:
        network: its name.
        differences: of the export from the reference in float32.
        precision: of the export.
        own: of the reference at that precision from itself in float32, for outputs beyond the limits.

    Raises:
        GmosError: an output is beyond what is allowed.
    """
    for found in differences:
        excess = found.excess(allowed(found, precision, own))
        if excess is not None:
            at = " ".join(f"{axis}={length}" for axis, length in found.lengths.items())
            raise GmosError(
                f"exported {network} ({found.target} graph, {precision}) differs from the reference in "
                f"{found.output} at {at}: {excess}; nothing was kept. Export with --precision fp32, or with "
                "--no_gate to look at the files"
            )


def report(
    differences: Sequence[OutputDifference],
    precision: PrecisionName,
    *,
    twin: bool,
    own: Sequence[OutputDifference] = (),
) -> dict[str, Any]:
    """The comparison as it is kept in the bundle."""
    return {
        "passed": all(found.excess(allowed(found, precision, own)) is None for found in differences),
        "compared": "fp32 twin" if twin else "graph",
        "limits": asdict(LIMITS[precision]),
        "differences": [asdict(found) for found in differences],
        "own_errors": [asdict(each) for each in own],
    }
