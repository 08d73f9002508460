"""The gate: an exported network stays only if it computes what the reference computes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..errors import GmosError
from ..runtime.parity import LIMITS, Array, OutputDifference, Precision, difference

__all__ = ["LIMITS", "Array", "OutputDifference", "check", "difference", "report"]


def check(network: str, differences: list[OutputDifference], precision: Precision) -> None:
    """Let an export through, or say which output of which network was off and by how much.

    Raises:
        GmosError: an output is beyond the limits of the precision.
    """
    for found in differences:
        excess = found.excess(LIMITS[precision])
        if excess is not None:
            at = " ".join(f"{axis}={length}" for axis, length in found.lengths.items())
            raise GmosError(
                f"exported {network} ({found.target} graph, {precision}) differs from the reference in "
                f"{found.output} at {at}: {excess}; nothing was kept. Export with --precision fp32, or with "
                "--no_gate to look at the files"
            )


def report(differences: list[OutputDifference], precision: Precision, *, twin: bool) -> dict[str, Any]:
    """The comparison as it is kept in the bundle."""
    return {
        "passed": all(found.excess(LIMITS[precision]) is None for found in differences),
        "compared": "fp32 twin" if twin else "graph",
        "limits": asdict(LIMITS[precision]),
        "differences": [asdict(found) for found in differences],
    }
