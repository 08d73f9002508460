"""Rounds a weight so that the layer's output changes least, not the weight itself."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import Format

Array = NDArray[Any]

DAMPING = 0.01
"""Share of the mean variance that is added to each channel's: no error goes where hardly anything was seen."""

BLOCK = 128
"""Channels whose errors are passed on to those behind the block together, in one product."""


class Gptq:
    """GPTQ (Frantar et al., 2023): rounding that makes up for its own errors in what a layer gives.

    Input channels are rounded one after another, those with the most variance first; the error that each leaves in
    the output is made up for, as far as the channels go together, by the ones that are not rounded yet.

    Args:
        moment: (K, K) second moment of what the layer reads, about its mean if the output's mean is corrected.
    """

    def __init__(self, moment: Array) -> None:
        moment = np.asarray(moment, np.float64)
        variances = np.diag(moment)
        self._order = np.argsort(-variances, kind="stable")
        mean = float(variances.mean())
        # What is never seen may be rounded in any way.
        self._spread = _spread(moment[np.ix_(self._order, self._order)], DAMPING * mean if mean > 0 else 1.0)

    def rounded(self, weight: Array, scale: Array, form: Format) -> Array:
        """A weight (K, N) in the format, over its scale (N,) or ()."""
        rest = np.asarray(weight, np.float64)[self._order]
        rounded = np.empty(rest.shape, form.rounded(rest[:1], scale).dtype)
        scales = np.asarray(scale, np.float64)
        for start in range(0, len(rest), BLOCK):
            stop = min(start + BLOCK, len(rest))
            errors = np.empty((stop - start, rest.shape[1]))
            for k in range(start, stop):
                rounded[k] = form.rounded(rest[k], scale)
                spread = self._spread[k, k:stop]
                error = (rest[k] - rounded[k].astype(np.float64) * scales) / spread[0]
                rest[k + 1 : stop] -= np.outer(spread[1:], error)
                errors[k - start] = error
            rest[stop:] -= self._spread[start:stop, stop:].T @ errors
        found = np.empty_like(rounded)
        found[self._order] = rounded
        return found


class RoundedWeights:
    """Weights that were rounded by GPTQ: networks that share a weight share what it became.

    It is rounded for what the first of them sees; a copy for each would take its place on the disk and in memory.
    """

    def __init__(self) -> None:
        self._found: dict[bytes, Array] = {}

    def rounded(self, weight: Array, scale: Array, form: Format, gptq: Gptq) -> Array:
        """A weight (K, N) in the format, over its scale."""
        key = _key(weight, form)
        if key not in self._found:
            self._found[key] = gptq.rounded(weight, scale, form)
        return self._found[key]

    def known(self, weight: Array, form: Format, rounded: Array) -> Array:
        """Take over what a weight became in an earlier run; returns the array that all share."""
        return self._found.setdefault(_key(weight, form), rounded)


def _key(weight: Array, form: Format) -> bytes:
    kind = f"{form.name} {weight.dtype} {weight.shape}"
    return hashlib.sha256(kind.encode() + np.ascontiguousarray(weight).tobytes()).digest()


def _spread(moment: Array, damping: float) -> Array:
    """How the error of channel k is spread over itself and the channels behind it, in row k."""
    while True:
        damped = moment + damping * np.eye(len(moment))
        try:
            return np.asarray(np.linalg.cholesky(np.linalg.inv(damped)).T)
        except np.linalg.LinAlgError:
            # Sums in float32 of channels that hardly differ: not quite a covariance.
            damping *= 10
