"""Times of repeated calls: interleaved measurement, the device's own clock, percentiles, ratios between competitors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime.backend import Backend

PERCENTILES = (50, 90, 95, 99)

Clock = Callable[[], float]

DeviceTimer = Callable[[Callable[[], object]], float]
"""Milliseconds of the device for what a function starts, between two events around it."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of each timed call, in their order."""

    samples_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples_s:
            raise ValueError("a latency needs at least one sample")

    @property
    def mean_s(self) -> float:
        """Mean."""
        return statistics.fmean(self.samples_s)

    @property
    def deviation_s(self) -> float:
        """Standard deviation of the samples; 0 of a single one."""
        return statistics.stdev(self.samples_s) if len(self.samples_s) > 1 else 0.0

    def percentile_s(self, percent: float) -> float:
        """A percentile, between samples by linear interpolation."""
        return float(np.percentile(self.samples_s, percent))

    @property
    def median_s(self) -> float:
        """The 50th percentile."""
        return self.percentile_s(50)

    def as_json(self) -> dict[str, object]:
        """Milliseconds, samples last."""
        milliseconds = [sample * 1e3 for sample in self.samples_s]
        return {
            "mean_ms": self.mean_s * 1e3,
            "deviation_ms": self.deviation_s * 1e3,
            **{f"p{percent}_ms": self.percentile_s(percent) * 1e3 for percent in PERCENTILES},
            "min_ms": min(milliseconds),
            "max_ms": max(milliseconds),
            "samples_ms": milliseconds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as long one competitor takes as another, round by round."""

    median: float
    least: float
    greatest: float


def measure(
    calls: Mapping[str, Callable[[], None]],
    *,
    warm_up: int,
    iterations: int,
    clock: Clock = time.perf_counter,
) -> dict[str, Latency]:
    """Time competitors in turns, so that a machine that slows down slows all of them.

    Args:
        calls: by name; each returns once its work is done.
        warm_up: rounds that are not counted.
        iterations: rounds that are, 1 or more. The order turns around with every round.
        clock: monotonic seconds.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(warm_up + iterations):
        for name in names if number % 2 == 0 else reversed(names):
            start = clock()
            calls[name]()
            taken = clock() - start
            if number >= warm_up:
                samples[name].append(taken)
    return {name: Latency(tuple(taken)) for name, taken in samples.items()}


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Ratio:
    """The first over the second, by round.

    Raises:
        ValueError: they have different numbers of rounds.
    """
    ratios = [a / b for a, b in zip(slower, faster, strict=True)]
    return Ratio(median=statistics.median(ratios), least=min(ratios), greatest=max(ratios))


def device_timer(backend: Backend) -> DeviceTimer | None:
    """CUDA events in the backend's stream; None on a CPU, and where its stream is not ours.

    ONNX Runtime waits for a stream of its own at the end of each call: there the clock of the host, after
    that, is the device's time with what starting the call took.
    """
    own: DeviceTimer | None = getattr(backend, "measure_ms", None)
    if own is not None:
        return own
    if getattr(backend.arrays.upload(np.zeros(1, np.uint8)), "is_cuda", False):
        return _torch_ms
    return None


def _torch_ms(work: Callable[[], object]) -> float:
    import torch  # noqa: PLC0415 - a backend whose arrays are its tensors has loaded it

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
