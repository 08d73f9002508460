"""What is to be said of samples that networks can hardly be calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sample_store import Sample

FEWEST = 4
"""Samples, below which the same ones serve for the choices and for the validation."""

SAME = 2e-3
"""Relative difference of inputs below which two calls have seen the same; half precision rounds to half of it."""


def doubts(name: str, samples: Sequence[Sample]) -> list[str]:
    """What makes the samples of a network worth little, in words; nothing in most cases.

    Raises:
        GmosError: a sample cannot be read.
    """
    if not samples:
        return [f"{name}: never called on these videos; it stays in half precision"]
    found = []
    if len(samples) < FEWEST:
        found.append(
            f"{name}: {len(samples)} calls were recorded, and with fewer than {FEWEST} it is validated on those that "
            "it was calibrated on; give more or longer videos, or more --max_samples"
        )
    first = _largest(samples[0])
    if np.ptp(first) == 0 if len(samples) == 1 else all(_same(first, _largest(one)) for one in samples[1:]):
        found.append(
            f"{name}: saw the same in every call; its ranges will not fit other videos: give videos in which something "
            "is seen and moves"
        )
    return found


def _largest(sample: Sample) -> NDArray[np.float64]:
    inputs: list[NDArray[Any]] = list(sample.load().values())
    return max(inputs, key=lambda array: array.size).astype(np.float64)


def _same(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    return a.shape == b.shape and float(np.linalg.norm(a - b)) <= SAME * float(np.linalg.norm(a))
