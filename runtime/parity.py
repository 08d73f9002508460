"""How far a network's outputs are from those of another implementation, and how far they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GmosError
from .precision import PRECISIONS, Limits

Array = NDArray[Any]

TINY = 1e-12
"""Keeps a reference of zeros from dividing by zero."""


LIMITS: dict[str, Limits] = {name: precision.limits for name, precision in PRECISIONS.items()}
"""By precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """How one output of one graph differs from the reference at some lengths of the axes.

    `max_abs` and `mean_abs` are in the output's own unit; the others as in `Limits`.
    """

    target: str
    lengths: Mapping[str, int]
    output: str
    finite: bool
    max_abs: float
    mean_abs: float
    relative: float
    largest: float
    cosine: float
    changed: float

    def excess(self, limits: Limits) -> str | None:
        """What is beyond the limits, in words; None if nothing is."""
        if not self.finite:
            return "it has values that are not finite"
        beyond = [
            f"{name} {value:.3g} (limit {limit:g})"
            for name, value, limit in (
                ("relative error", self.relative, limits.relative),
                ("largest error over the root mean square", self.largest, limits.largest),
                ("share of changed values", self.changed, limits.changed),
            )
            if value > limit
        ]
        if self.cosine < limits.cosine:
            beyond.append(f"cosine {self.cosine:.6f} (limit {limits.cosine:g})")
        return ", ".join(beyond) or None


def difference(
    given: Array, expected: Array, *, target: str, lengths: Mapping[str, int], output: str
) -> OutputDifference:
    """Compare an output with the reference's.

    Args:
        given: of the exported graph.
        expected: of the reference, float32 or whole numbers.
        target: which graph.
        lengths: of the axes that vary.
        output: its name.

    Raises:
        GmosError: the shapes differ.
    """
    if given.shape != expected.shape:
        raise GmosError(
            f"exported {output} has shape {given.shape}, expected {expected.shape}: this export cannot be "
            "used, please report it"
        )
    whole = not np.issubdtype(expected.dtype, np.floating)
    a, b = given.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    error = np.abs(a - b)
    count, norm = max(len(b), 1), float(np.linalg.norm(b))
    norms = norm * float(np.linalg.norm(a))
    worst = float(error.max(initial=0.0))
    return OutputDifference(
        target=target,
        lengths=dict(lengths),
        output=output,
        finite=bool(np.isfinite(a).all()),
        max_abs=worst,
        mean_abs=float(error.sum()) / count,
        # Labels are names: only how many differ says something.
        relative=0.0 if whole else float(np.linalg.norm(error)) / max(norm, TINY),
        largest=0.0 if whole else worst / max(norm / count**0.5, TINY),
        cosine=1.0 if whole or norms == 0 else float(a @ b) / norms,
        changed=float(np.count_nonzero(error)) / count if whole else 0.0,
    )
