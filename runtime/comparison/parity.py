"""How far a network's outputs are from those of another implementation, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..contract import NetworkName
from ..precision import PRECISIONS, Limits
from .query_order import in_order_of

Array = NDArray[Any]

TINY = 1e-12
"""Keeps a reference of zeros from dividing by zero."""


OWN_ERROR_SHARE = 2.0
"""How much further off than a trusted computation at the same precision one may be, where that exceeds the limits.

The reference keeps the sums between layers in float32, a graph rounds them too.
"""

LIMITS: dict[str, Limits] = {name: precision.limits for name, precision in PRECISIONS.items()}
"""By precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """How one output of a network differs from the trusted one at some lengths of the axes.

    `target` says what gave it. `max_abs` and `mean_abs` are in the output's own unit, the other measures as in
    `Limits`; all are of the values that are finite on both sides. `finite` says whether all values are,
    `not_finite_a` and `not_finite_b` how many of the trusted side and of the other are not.
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
    not_finite_a: int = 0
    not_finite_b: int = 0

    @property
    def severity(self) -> float:
        """One number to find the worst of several: the relative error, or the share of changed whole numbers."""
        return max(self.relative, self.changed) if self.finite else math.inf

    def excess(self, limits: Limits) -> str | None:
        """What is beyond the limits, in words; None if nothing is."""
        if not self.finite:
            return f"it has values that are not finite: {self.not_finite_b}, the trusted side {self.not_finite_a}"
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

    def failure(self, limits: Limits) -> str | None:
        """What is beyond the limits and where, in one line; None if nothing is."""
        excess = self.excess(limits)
        at = " ".join(f"{axis}={length}" for axis, length in self.lengths.items())
        return None if excess is None else f"{self.output}{f' at {at}' if at else ''}: {excess}"


def compare_outputs(
    network: NetworkName,
    given: Mapping[str, Array],
    expected: Mapping[str, Array],
    *,
    target: str,
    lengths: Mapping[str, int],
) -> list[OutputDifference]:
    """Compare all outputs of a call with those of another implementation; the proposer's queries in any order.

    Args:
        network: which one.
        given: outputs by name; those that are not expected are left out.
        expected: of the trusted implementation, float32 or whole numbers.
        target: what gave them.
        lengths: of the axes that vary.

    Raises:
        GmosError: the shapes of an output differ.
    """
    matched = in_order_of(network, given, expected)
    return [
        difference(matched[name], wanted, target=target, lengths=lengths, output=name)
        for name, wanted in expected.items()
    ]


def widened(limits: Limits, own: Iterable[OutputDifference]) -> Limits:
    """The limits, or twice the own errors of a trusted computation at the same precision where these are more.

    Where a network amplifies rounding, any implementation in half precision is off: that is no fault of one.
    """
    for each in own:
        if each.finite:
            limits = Limits(
                relative=max(limits.relative, OWN_ERROR_SHARE * each.relative),
                largest=max(limits.largest, OWN_ERROR_SHARE * each.largest),
                # Of nearly parallel vectors, one minus the cosine goes with the square of the error.
                cosine=min(limits.cosine, 1 - OWN_ERROR_SHARE**2 * (1 - each.cosine)),
                changed=max(limits.changed, OWN_ERROR_SHARE * each.changed),
            )
    return limits


def worst_of(found: Iterable[OutputDifference]) -> OutputDifference:
    """The difference that says most against a network, the first of several."""
    return max(found, key=lambda one: one.severity)


def worst_severity(found: Iterable[OutputDifference]) -> float:
    """The greatest severity: one number for a network; 0 where nothing was compared."""
    return max((one.severity for one in found), default=0.0)


def difference(
    given: Array, expected: Array, *, output: str, target: str = "", lengths: Mapping[str, int] | None = None
) -> OutputDifference:
    """Compare an output with the trusted one.

    Args:
        given: the values in question.
        expected: the trusted ones, float32 or whole numbers.
        output: its name.
        target: what gave it.
        lengths: of the axes that vary.

    Raises:
        GmosError: the shapes differ.
    """
    if given.shape != expected.shape:
        raise GmosError(
            f"exported {output} has shape {given.shape}, expected {expected.shape}: this export cannot be "
            "used, please report it"
        )
    whole = not np.issubdtype(expected.dtype, np.floating)
    (a, not_finite_a), (b, not_finite_b) = _finite(expected), _finite(given)
    error = np.abs(b - a)
    count, norm = max(len(a), 1), float(np.linalg.norm(a))
    norms = norm * float(np.linalg.norm(b))
    worst = float(error.max(initial=0.0))
    return OutputDifference(
        target=target,
        lengths=dict(lengths or {}),
        output=output,
        finite=not not_finite_a + not_finite_b,
        max_abs=worst,
        mean_abs=float(error.sum()) / count,
        # Labels are names: only how many differ says something.
        relative=0.0 if whole else float(np.linalg.norm(error)) / max(norm, TINY),
        largest=0.0 if whole else worst / max(norm / count**0.5, TINY),
        cosine=1.0 if whole or norms == 0 else float(a @ b) / norms,
        changed=float(np.count_nonzero(error)) / count if whole else 0.0,
        not_finite_a=not_finite_a,
        not_finite_b=not_finite_b,
    )


def _finite(values: Array) -> tuple[NDArray[np.float64], int]:
    """Values in one row with zeros for those that are not finite, and how many of these there are."""
    row = values.astype(np.float64).ravel()
    missing = ~np.isfinite(row)
    row[missing] = 0.0
    return row, int(np.count_nonzero(missing))
