"""How a site is quantised: its threshold, and how its channels are balanced against the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GmosError
from .formats import Format
from .linears import Site
from .ranges import MagnitudeHistogram, RangeMethod
from .site_statistics import SiteStatistics

Array = NDArray[Any]

STRENGTHS = (0.35, 0.5, 0.65, 0.8)
"""Share of a channel's spread that goes into the weights (alpha of SmoothQuant, Xiao et al., 2023)."""

PERCENTILES = (99.999, 99.99)
"""Tried beside the maximum by `best`. 99.9 looks better on some rows and is worse on other calls."""

BALANCE_LIMIT = 10
"""Greatest factor of a channel, as a power of two."""


TINY = 1e-12
"""Keeps layers that give zeros only from dividing by zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeChoice:
    """How ranges are found.

    `best` tries the maximum and two percentiles on rows of the samples and takes what changes the layers'
    outputs least; `percentile` is used by the method of that name. `balance` allows channels to be balanced.
    """

    method: RangeMethod = "best"
    percentile: float = 99.99
    balance: bool = True

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise GmosError(f"--percentile {self.percentile}: expected more than 50, at most 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteChoice:
    """What was chosen for a site.

    `threshold` is the greatest magnitude of the (balanced) tensor that is not clipped, `factors` (K,) what its
    channels are divided by and the rows of the weights multiplied with, None for nothing. `error` is the relative
    L2 error of the layers' outputs on the rows that the choice was tried on.
    """

    site: Site
    threshold: float
    method: str
    factors: Array | None
    strength: float
    error: float


UNBALANCED: tuple[tuple[float, Array | None], ...] = ((0.0, None),)
"""Channels as they are, as a strength and factors."""


def choose(
    site: Site, statistics: SiteStatistics, weights: Mapping[str, Array], form: Format, ranges: RangeChoice
) -> SiteChoice:
    """Choose for a site what changes the outputs of its layers least.

    Args:
        site: with K channels.
        statistics: of its tensor.
        weights: (K, N) of its layers by node.
        form: of weights and activations.
        ranges: what may be tried.
    """
    rows = statistics.rows
    parts = [np.asarray(weights[linear.node], np.float32) for linear in site.linears]
    expected = [rows @ part for part in parts]
    norm = max(_length(expected), TINY)
    found: list[SiteChoice] = []
    for strength, factors in (
        _balances(site, statistics, parts) if ranges.balance and form.balanced else UNBALANCED
    ):
        balanced = rows if factors is None else rows / factors
        histogram = _histogram(statistics, balanced, factors)
        stored = [
            _emulated_weight(part if factors is None else part * factors[:, None], form) for part in parts
        ]
        for method, threshold in _thresholds(histogram, ranges):
            seen = form.emulated(balanced, form.scale(threshold))
            errors = [seen @ part - wanted for part, wanted in zip(stored, expected, strict=True)]
            error = _length(errors) / norm
            found.append(
                SiteChoice(
                    site=site,
                    threshold=threshold,
                    method=method,
                    factors=factors,
                    strength=strength,
                    error=error,
                )
            )
    return min(found, key=lambda choice: choice.error)


def _length(parts: Sequence[Array]) -> float:
    """L2 norm of some arrays together."""
    return float(np.sqrt(sum(float((part.astype(np.float64) ** 2).sum()) for part in parts)))


def weight_scale(weight: Array, form: Format) -> Array:
    """The scale of a weight (K, N): (N,) or a scalar, float16."""
    magnitudes = np.abs(np.asarray(weight, np.float32))
    return form.scale(magnitudes.max(axis=0) if form.per_channel else magnitudes.max())


def _emulated_weight(weight: Array, form: Format) -> Array:
    return form.emulated(weight, weight_scale(weight, form))


def _balances(
    site: Site, statistics: SiteStatistics, weights: Sequence[Array]
) -> Sequence[tuple[float, Array | None]]:
    """Strengths with the factors (K,) of the channels; powers of two, so that halves stay exact."""
    if site.norm is None:
        return UNBALANCED
    found = list(UNBALANCED)
    reach = statistics.channels.astype(np.float64)
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0).astype(np.float64)
    alive = (reach > 0) & (rows > 0)
    if not alive.any():
        return found
    for strength in STRENGTHS:
        exponents = np.zeros(len(reach))
        exponents[alive] = strength * np.log2(reach[alive]) - (1 - strength) * np.log2(rows[alive])
        # Only the differences between channels matter; the middle one stays as it is.
        exponents[alive] -= np.median(exponents[alive])
        factors = np.exp2(np.clip(np.rint(exponents), -BALANCE_LIMIT, BALANCE_LIMIT)).astype(np.float32)
        if (factors != 1).any():
            found.append((strength, factors))
    return found


def _histogram(statistics: SiteStatistics, rows: Array, factors: Array | None) -> MagnitudeHistogram:
    if factors is None:
        return statistics.histogram
    balanced = MagnitudeHistogram()
    balanced.add(rows)
    # The rows are a sample; the greatest magnitude of each channel is of all of them.
    balanced.largest = float((statistics.channels / factors).max())
    return balanced


def _thresholds(histogram: MagnitudeHistogram, ranges: RangeChoice) -> list[tuple[str, float]]:
    if ranges.method == "entropy":
        return [("entropy", histogram.entropy())]
    if ranges.method == "percentile":
        return [(f"{ranges.percentile:g} %", histogram.percentile(ranges.percentile))]
    found = [("max", histogram.largest)]
    if ranges.method == "best":
        found += [(f"{share:g} %", histogram.percentile(share)) for share in PERCENTILES]
    return found
