"""How a site is quantised: what its layers see, how far that reaches, and how their weights are rounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from .compensation import Compensation, RoundedWeights
from .formats import Format, weight_forms
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

CENTRE_WORTH = 0.95
"""Means are taken away where they leave less than this share of the error: it is one more operation."""

TINY = 1e-12
"""Keeps layers that give zeros only from dividing by zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiserOptions:
    """What may be done to a layer.

    `best` tries the maximum and, in whole numbers, two percentiles on rows of the samples and takes what changes the
    layers' outputs least; `percentile` is used by the method of that name. `balance` allows channels to be balanced (in
    whole numbers), `centre` their means to be taken away (in a floating format); `compensate` rounds weights with
    compensation and corrects the mean of the output.
    """

    method: RangeMethod = "best"
    percentile: float = 99.99
    balance: bool = True
    centre: bool = True
    compensate: bool = True

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise GmosError(f"--percentile {self.percentile}: expected more than 50, at most 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """A layer in eight bits: its weight (K, N) over its scale, (N,) or (), and what is added to its output (N,)."""

    form: Format
    weight: Array
    scale: Array
    correction: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteChoice:
    """What was chosen for a site.

    `factors` (K,) is what the channels of the tensor are divided by and the rows of the weights multiplied with, and
    `centre` (K,), in float16, what is then taken away from quantised layers' channels; None for nothing. `threshold`
    is the greatest magnitude that remains and is not clipped. `layers` are those of the site by node, `restored` the
    same for arithmetic in half precision, empty if that was not asked for. `error` is the relative
    L2 error of the layers' outputs on the rows that the choice was tried on.
    """

    site: Site
    threshold: float
    method: str
    factors: Array | None
    strength: float
    centre: Array | None
    layers: Mapping[str, StoredLayer]
    restored: Mapping[str, StoredLayer]
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """The tensor of a site as its quantised layers see it, before rounding."""

    factors: Array | None = None
    strength: float = 0.0
    centre: Array | None = None

    def of(self, rows: Array) -> Array:
        balanced = rows if self.factors is None else rows / self.factors
        return balanced if self.centre is None else balanced - self.centre.astype(np.float32)

    def weight(self, weight: Array) -> Array:
        return weight if self.factors is None else weight * self.factors[:, None]

    def moment(self, moment: Array) -> Array:
        return moment if self.factors is None else moment / np.outer(self.factors, self.factors)

    def centred(self, mean: Array) -> _View:
        centre = (mean if self.factors is None else mean / self.factors).astype(np.float16)
        return replace(self, centre=centre)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    view: _View
    method: str
    threshold: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChooser:
    """Chooses how layers are quantised to a format; weights that it rounds once are shared by all it chooses for."""

    form: Format
    options: QuantiserOptions = field(default_factory=QuantiserOptions)
    _rounded: RoundedWeights = field(default_factory=RoundedWeights)

    def choose(
        self,
        site: Site,
        statistics: SiteStatistics,
        weights: Mapping[str, Array],
        *,
        restored: bool = False,
    ) -> SiteChoice:
        """Choose for a site what changes the outputs of its layers least.

        Args:
            site: with K channels.
            statistics: of its tensor.
            weights: (K, N) of its layers by node.
            restored: make the forms of its layers that compute in half precision, too.
        """
        rows = statistics.rows
        parts = {linear.node: np.asarray(weights[linear.node], np.float32) for linear in site.linears}
        expected = {node: rows @ part for node, part in parts.items()}
        best = self._best(site, statistics, list(parts.values()), list(expected.values()))
        view = best.view
        moment = view.moment(statistics.moment())
        compensation = Compensation(moment) if self.options.compensate else None
        stored = {node: view.weight(part) for node, part in parts.items()}
        seen = self.form.emulated(view.of(rows), self.form.scale(best.threshold))
        corrected = self.options.compensate or view.centre is not None
        layers, errors = {}, []
        for node, weight in stored.items():
            layer = self._stored(weight, compensation, self.form)
            layers[node], error = _corrected(layer, seen, expected[node], corrected=corrected)
            errors.append(error)
        halves = {}
        if restored:
            seen = replace(view, centre=None).of(rows)
            for node, weight in stored.items():
                tried = [
                    _corrected(
                        self._stored(weight, compensation, form),
                        seen,
                        expected[node],
                        corrected=self.options.compensate,
                    )
                    for form in weight_forms(self.form)
                ]
                halves[node], _ = min(tried, key=lambda found: _length([found[1]]))
        return SiteChoice(
            site=site,
            threshold=best.threshold,
            method=best.method,
            factors=view.factors,
            strength=view.strength,
            centre=view.centre,
            layers=layers,
            restored=halves,
            error=_length(errors) / max(_length(list(expected.values())), TINY),
        )

    def take_over(self, choice: SiteChoice, weights: Mapping[str, Array]) -> SiteChoice:
        """A choice of an earlier run, made by a chooser with the same options: weights are shared as if made here."""
        if not self.options.compensate:
            return choice
        view = _View(factors=choice.factors)

        def shared(layers: Mapping[str, StoredLayer]) -> dict[str, StoredLayer]:
            found = {}
            for node, layer in layers.items():
                weight = view.weight(np.asarray(weights[node], np.float32))
                found[node] = replace(layer, weight=self._rounded.known(weight, layer.form, layer.weight))
            return found

        return replace(choice, layers=shared(choice.layers), restored=shared(choice.restored))

    def _best(
        self, site: Site, statistics: SiteStatistics, parts: Sequence[Array], expected: Sequence[Array]
    ) -> _Candidate:
        balanced = self.options.balance and not self.form.floating
        views = _balances(site, statistics, parts) if balanced else [_View()]
        best = self._tried(views, statistics, parts, expected)
        if not (self.options.centre and self.form.floating):
            return best
        centred = [view.centred(statistics.mean) for view in views]
        other = self._tried(centred, statistics, parts, expected)
        return other if other.error < CENTRE_WORTH * best.error else best

    def _tried(
        self,
        views: Iterable[_View],
        statistics: SiteStatistics,
        parts: Sequence[Array],
        expected: Sequence[Array],
    ) -> _Candidate:
        """The best way of seeing a tensor and the best threshold, with weights rounded to the nearest."""
        found = []
        for view in views:
            prepared = view.of(statistics.rows)
            stored = [_emulated_weight(view.weight(part), self.form) for part in parts]
            for method, threshold in self._thresholds(_histogram(statistics, prepared, view)):
                seen = self.form.emulated(prepared, self.form.scale(threshold))
                errors = [seen @ part - wanted for part, wanted in zip(stored, expected, strict=True)]
                if self.options.compensate or view.centre is not None:
                    errors = [error - error.mean(axis=0) for error in errors]
                found.append(_Candidate(view=view, method=method, threshold=threshold, error=_length(errors)))
        return min(found, key=lambda candidate: candidate.error)

    def _thresholds(self, histogram: MagnitudeHistogram) -> list[tuple[str, float]]:
        options, headroom = self.options, self.form.headroom
        if options.method == "entropy":
            return [("entropy", histogram.entropy())]
        if options.method == "percentile":
            return [(f"{options.percentile:g} %", histogram.percentile(options.percentile))]
        found = [("max", histogram.largest * headroom)]
        if options.method == "best" and not self.form.floating:
            found += [(f"{share:g} %", histogram.percentile(share)) for share in PERCENTILES]
        return found

    def _stored(self, weight: Array, compensation: Compensation | None, form: Format) -> StoredLayer:
        scale = weight_scale(weight, form)
        if compensation is None:
            stored = form.rounded(weight, scale)
        else:
            stored = self._rounded.rounded(weight, scale, form, compensation)
        return StoredLayer(form=form, weight=stored, scale=scale, correction=None)


def _corrected(
    layer: StoredLayer, seen: Array, expected: Array, *, corrected: bool
) -> tuple[StoredLayer, Array]:
    """A layer with the mean of its output made up for, if that is wanted, and the error (n, N) that remains."""
    error = seen @ (layer.weight.astype(np.float32) * layer.scale.astype(np.float32)) - expected
    if not corrected:
        return layer, error
    mean = error.mean(axis=0)
    return replace(layer, correction=-mean), error - mean


def _length(parts: Sequence[Array]) -> float:
    """L2 norm of some arrays together."""
    return float(np.sqrt(sum(float((part.astype(np.float64) ** 2).sum()) for part in parts)))


def weight_scale(weight: Array, form: Format) -> Array:
    """The scale of a weight (K, N): (N,) or a scalar, float16."""
    magnitudes = np.abs(np.asarray(weight, np.float32))
    return form.scale(magnitudes.max(axis=0) if form.per_channel else magnitudes.max())


def _emulated_weight(weight: Array, form: Format) -> Array:
    return form.emulated(weight, weight_scale(weight, form))


def _balances(site: Site, statistics: SiteStatistics, weights: Sequence[Array]) -> list[_View]:
    """Channels as they are, and balanced with several strengths; by powers of two, so that halves stay exact."""
    found = [_View()]
    if site.norm is None:
        return found
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
            found.append(_View(strength=strength, factors=factors))
    return found


def _histogram(statistics: SiteStatistics, rows: Array, view: _View) -> MagnitudeHistogram:
    if view.factors is None and view.centre is None:
        return statistics.histogram
    changed = MagnitudeHistogram()
    changed.add(rows)
    # The rows are a sample; the ends of each channel are of all of them.
    ends = view.of(np.stack((statistics.low, statistics.high)))
    changed.largest = float(np.abs(ends).max())
    return changed
