"""How far the values of a tensor reach: a histogram over a stream of them, and the threshold that is chosen from it."""

from __future__ import annotations

import contextlib
import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RangeMethod = Literal["max", "percentile", "entropy", "best"]

BINS = 2048
"""Of magnitudes; the range doubles when larger ones come, two bins becoming one."""

ENTROPY_BINS, ENTROPY_LEVELS = 512, 128
"""Bins of magnitudes and levels of the search for the least divergence, which tries every bin."""


class MagnitudeHistogram:
    """Counts of magnitudes in bins of equal width. Its size does not grow with the values it has seen."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.top = 0.0
        """Upper edge of the last bin."""
        self.largest = 0.0
        self.not_finite = 0

    def add(self, values: Array) -> None:
        """Count the magnitudes of an array of any shape."""
        magnitudes = np.abs(np.asarray(values, np.float32)).ravel()
        finite = np.isfinite(magnitudes)
        if not finite.all():
            self.not_finite += int(np.count_nonzero(~finite))
            magnitudes = magnitudes[finite]
        largest = float(magnitudes.max(initial=0.0))
        self.largest = max(self.largest, largest)
        if largest == 0.0:
            self.counts[0] += magnitudes.size
            return
        if self.top == 0.0:
            self.top = largest
        while self.top < largest:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate((pairs, np.zeros(BINS // 2, np.int64)))
            self.top *= 2
        self.counts += np.histogram(magnitudes, bins=BINS, range=(0.0, self.top))[0]

    def percentile(self, share: float) -> float:
        """The magnitude that `share` percent of the values do not exceed, up to the width of a bin."""
        total = int(self.counts.sum())
        if not total or self.largest == 0.0:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self.counts), total * share / 100))
        return min((index + 1) * self.top / BINS, self.largest)

    def entropy(self) -> float:
        """The threshold that changes the distribution least, by ONNX Runtime's search."""
        if self.largest == 0.0:
            return 0.0
        from onnxruntime.quantization.calibrate import HistogramCollector  # noqa: PLC0415 - a second to import

        width = BINS // ENTROPY_BINS
        half = self.counts.reshape(-1, width).sum(axis=1)
        # It wants both signs; a distribution of magnitudes has none, so each half is the other's mirror image.
        both = np.concatenate((half[::-1], half))
        edges = np.linspace(-self.top, self.top, len(both) + 1, dtype=np.float32)
        ends = np.float32(-self.largest), np.float32(self.largest)
        collector = HistogramCollector("entropy", True, len(both), ENTROPY_LEVELS, None, None)
        with contextlib.redirect_stdout(io.StringIO()):
            low, high = collector.get_entropy_threshold((both, edges, *ends), ENTROPY_LEVELS)
        return float(min(max(abs(low), abs(high)), self.largest))
