"""Percentiles of latencies over days in a fixed amount of memory."""

from __future__ import annotations

import math

import numpy as np

PERCENTILES = (50, 90, 99)

LEAST_S = 1e-5
GROWTH = 1.01
"""Each bin is a hundredth wider than the one before, so a percentile is off by half of that at most."""
BINS = 1 + math.ceil(math.log(1e4 / LEAST_S, GROWTH))
"""Up to 10 000 s; what is above counts as that."""


class Latencies:
    """Counts latencies in bins of equal ratio."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self.greatest_s = 0.0

    def add(self, latency_s: float) -> None:
        """Count one; below 10 µs it is 10 µs."""
        place = math.log(max(latency_s, LEAST_S) / LEAST_S, GROWTH)
        self._counts[min(int(place), BINS - 1)] += 1
        self.greatest_s = max(self.greatest_s, latency_s)

    @property
    def count(self) -> int:
        """How many were counted."""
        return int(self._counts.sum())

    def percentiles_ms(self) -> dict[str, float] | None:
        """Percentiles 50, 90 and 99 and the greatest, in milliseconds; None where nothing was counted."""
        count = self.count
        if not count:
            return None
        passed = np.cumsum(self._counts)
        found = {
            f"p{share}": self._middle_s(int(np.searchsorted(passed, math.ceil(count * share / 100))))
            for share in PERCENTILES
        }
        found["max"] = self.greatest_s
        return {name: round(1e3 * value, 2) for name, value in found.items()}

    def _middle_s(self, place: int) -> float:
        return min(LEAST_S * math.pow(GROWTH, place + 0.5), self.greatest_s)
