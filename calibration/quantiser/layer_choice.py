"""How an activation and the linear layers that read it are quantised: its range, and how weights are rounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from .activation_statistics import ActivationStatistics, MagnitudeHistogram, RangeMethod
from .formats import Format, weight_forms
from .gptq import Gptq, RoundedWeights
from .linear_layers import Activation

Array = NDArray[Any]

ALPHAS = (0.35, 0.5, 0.65, 0.8)
"""Share of a channel's spread that goes into the weights (alpha of SmoothQuant, Xiao et al., 2023)."""

PERCENTILES = (99.999, 99.99)
"""Tried beside the maximum by `best`. 99.9 looks better on some rows and is worse on other calls."""

FACTOR_LIMIT = 10
"""Greatest factor of a channel, as a power of two."""

MEAN_SHIFT_WORTH = 0.95
"""Means are taken away where they leave less than this share of the error: it is one more operation."""

TINY = 1e-12
"""Keeps layers that give zeros only from dividing by zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiserOptions:
    """What may be done to a layer.

    `best` tries the maximum and, in whole numbers, two percentiles on rows of the samples and takes what changes the
    layers' outputs least; `percentile` is used by the method of that name. `smoothquant` allows SmoothQuant (in whole
    numbers), `mean_shift` the means of channels to be taken away (in a floating format); `gptq` rounds weights by GPTQ
    and corrects the bias.
    """

    method: RangeMethod = "best"
    percentile: float = 99.99
    smoothquant: bool = True
    mean_shift: bool = True
    gptq: bool = True

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise GmosError(f"--percentile {self.percentile}: expected more than 50, at most 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """A layer in eight bits: its weight (K, N) over its scale, (N,) or (), and what is added to its output (N,)."""

    form: Format
    weight: Array
    scale: Array
    bias_correction: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationChoice:
    """What was chosen for an activation.

    `factors` (K,) are SmoothQuant's for `alpha`, which its channels are divided by and the rows of the weights
    multiplied with; `mean_shift` (K,), in float16, is what is then taken away from the channels that quantised layers
    read; None for nothing. `threshold` is the greatest magnitude that remains and is not clipped. `quantised` are its
    layers by node, `weight_only` the same for arithmetic in half precision, empty if that was not asked for. `error`
    is the relative L2 error of the layers' outputs on the rows that the choice was tried on.
    """

    activation: Activation
    threshold: float
    method: str
    factors: Array | None
    alpha: float
    mean_shift: Array | None
    quantised: Mapping[str, StoredLayer]
    weight_only: Mapping[str, StoredLayer]
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """An activation as its quantised layers read it, before rounding; the range that was tried on it, and its error."""

    factors: Array | None = None
    alpha: float = 0.0
    mean_shift: Array | None = None
    method: str = ""
    threshold: float = 0.0
    error: float = 0.0

    def of(self, rows: Array) -> Array:
        smoothed = rows if self.factors is None else rows / self.factors
        return smoothed if self.mean_shift is None else smoothed - self.mean_shift.astype(np.float32)

    def weight(self, weight: Array) -> Array:
        return weight if self.factors is None else weight * self.factors[:, None]

    def moment(self, moment: Array) -> Array:
        return moment if self.factors is None else moment / np.outer(self.factors, self.factors)

    def mean_shifted(self, mean: Array) -> _View:
        mean_shift = (mean if self.factors is None else mean / self.factors).astype(np.float16)
        return replace(self, mean_shift=mean_shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChooser:
    """Chooses how layers are quantised to a format; weights that it rounds once are shared by all it chooses for."""

    form: Format
    options: QuantiserOptions = field(default_factory=QuantiserOptions)
    _rounded: RoundedWeights = field(default_factory=RoundedWeights)

    def choose(
        self,
        activation: Activation,
        statistics: ActivationStatistics,
        weights: Mapping[str, Array],
        *,
        weight_only: bool = False,
    ) -> ActivationChoice:
        """Choose for an activation what changes the outputs of its layers least.

        Args:
            activation: with K channels.
            statistics: of it.
            weights: (K, N) of its layers by node.
            weight_only: make the forms of its layers that compute in half precision, too.
        """
        rows = statistics.rows
        parts = {layer.node: np.asarray(weights[layer.node], np.float32) for layer in activation.layers}
        expected = {node: rows @ part for node, part in parts.items()}
        view = self._best(activation, statistics, list(parts.values()), list(expected.values()))
        moment = view.moment(statistics.moment())
        gptq = Gptq(moment) if self.options.gptq else None
        seen = self.form.emulated(view.of(rows), self.form.scale(view.threshold))
        halves_seen = replace(view, mean_shift=None).of(rows)
        corrected = self.options.gptq or view.mean_shift is not None
        quantised, halves, errors = {}, {}, []
        for node, part in parts.items():
            weight, wanted = view.weight(part), expected[node]
            quantised[node], error = self._layer(weight, self.form, gptq, seen, wanted, corrected=corrected)
            errors.append(error)
            if weight_only:
                tried = [
                    self._layer(weight, form, gptq, halves_seen, wanted, corrected=self.options.gptq)
                    for form in weight_forms(self.form)
                ]
                halves[node], _ = min(tried, key=lambda found: _length([found[1]]))
        return ActivationChoice(
            activation=activation,
            threshold=view.threshold,
            method=view.method,
            factors=view.factors,
            alpha=view.alpha,
            mean_shift=view.mean_shift,
            quantised=quantised,
            weight_only=halves,
            error=_length(errors) / max(_length(list(expected.values())), TINY),
        )

    def take_over(self, choice: ActivationChoice, weights: Mapping[str, Array]) -> ActivationChoice:
        """A choice of an earlier run, made by a chooser with the same options: weights are shared as if made here."""
        if not self.options.gptq:
            return choice
        view = _View(factors=choice.factors)

        def shared(quantised: Mapping[str, StoredLayer]) -> dict[str, StoredLayer]:
            found = {}
            for node, layer in quantised.items():
                weight = view.weight(np.asarray(weights[node], np.float32))
                found[node] = replace(layer, weight=self._rounded.known(weight, layer.form, layer.weight))
            return found

        return replace(choice, quantised=shared(choice.quantised), weight_only=shared(choice.weight_only))

    def _best(
        self,
        activation: Activation,
        statistics: ActivationStatistics,
        parts: Sequence[Array],
        expected: Sequence[Array],
    ) -> _View:
        smoothed = self.options.smoothquant and not self.form.floating
        views = _smoothed_views(activation, statistics, parts) if smoothed else [_View()]
        best = self._tried(views, statistics, parts, expected)
        if not (self.options.mean_shift and self.form.floating):
            return best
        mean_shifted = [view.mean_shifted(statistics.mean) for view in views]
        other = self._tried(mean_shifted, statistics, parts, expected)
        return other if other.error < MEAN_SHIFT_WORTH * best.error else best

    def _tried(
        self,
        views: Iterable[_View],
        statistics: ActivationStatistics,
        parts: Sequence[Array],
        expected: Sequence[Array],
    ) -> _View:
        """The best view of an activation and the best threshold, with weights rounded to the nearest."""
        found = []
        for view in views:
            prepared = view.of(statistics.rows)
            stored = [_emulated_weight(view.weight(part), self.form) for part in parts]
            for method, threshold in self._thresholds(_histogram(statistics, prepared, view)):
                seen = self.form.emulated(prepared, self.form.scale(threshold))
                errors = [seen @ part - wanted for part, wanted in zip(stored, expected, strict=True)]
                if self.options.gptq or view.mean_shift is not None:
                    errors = [error - error.mean(axis=0) for error in errors]
                found.append(replace(view, method=method, threshold=threshold, error=_length(errors)))
        return min(found, key=lambda view: view.error)

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

    def _layer(
        self, weight: Array, form: Format, gptq: Gptq | None, seen: Array, wanted: Array, *, corrected: bool
    ) -> tuple[StoredLayer, Array]:
        """A layer with the mean of its output made up for, if that is wanted, and the error (n, N) that remains."""
        scale = weight_scale(weight, form)
        stored = (
            form.rounded(weight, scale) if gptq is None else self._rounded.rounded(weight, scale, form, gptq)
        )
        error = seen @ (stored.astype(np.float32) * scale.astype(np.float32)) - wanted
        if not corrected:
            return StoredLayer(form=form, weight=stored, scale=scale, bias_correction=None), error
        mean = error.mean(axis=0)
        return StoredLayer(form=form, weight=stored, scale=scale, bias_correction=-mean), error - mean


def _length(parts: Sequence[Array]) -> float:
    """L2 norm of some arrays together."""
    return float(np.sqrt(sum(float((part.astype(np.float64) ** 2).sum()) for part in parts)))


def weight_scale(weight: Array, form: Format) -> Array:
    """The scale of a weight (K, N): (N,) or a scalar, float16."""
    magnitudes = np.abs(np.asarray(weight, np.float32))
    return form.scale(magnitudes.max(axis=0) if form.per_channel else magnitudes.max())


def _emulated_weight(weight: Array, form: Format) -> Array:
    return form.emulated(weight, weight_scale(weight, form))


def _smoothed_views(
    activation: Activation, statistics: ActivationStatistics, weights: Sequence[Array]
) -> list[_View]:
    """Channels as they are, and by SmoothQuant with several alphas; factors are powers of two: halves stay exact."""
    found = [_View()]
    if activation.norm is None:
        return found
    reach = statistics.channels.astype(np.float64)
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0).astype(np.float64)
    alive = (reach > 0) & (rows > 0)
    if not alive.any():
        return found
    for alpha in ALPHAS:
        exponents = np.zeros(len(reach))
        exponents[alive] = alpha * np.log2(reach[alive]) - (1 - alpha) * np.log2(rows[alive])
        # Only the differences between channels matter; the middle one stays as it is.
        exponents[alive] -= np.median(exponents[alive])
        factors = np.exp2(np.clip(np.rint(exponents), -FACTOR_LIMIT, FACTOR_LIMIT)).astype(np.float32)
        if (factors != 1).any():
            found.append(_View(alpha=alpha, factors=factors))
    return found


def _histogram(statistics: ActivationStatistics, rows: Array, view: _View) -> MagnitudeHistogram:
    if view.factors is None and view.mean_shift is None:
        return statistics.histogram
    changed = MagnitudeHistogram()
    changed.add(rows)
    # The rows are a sample; the ends of each channel are of all of them.
    ends = view.of(np.stack((statistics.low, statistics.high)))
    changed.largest = float(np.abs(ends).max())
    return changed
