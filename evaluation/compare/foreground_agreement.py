"""How far the foreground of GMOS-S agrees on two sides: probabilities, and the decisions made from them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from .mask_agreement import Agreement, ComparedFrame, Labels

Logits = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForegroundFrameAgreement(ComparedFrame):
    """One frame. Errors are of probabilities at the network's resolution, decisions of pixels at the video's.

    `either` counts pixels that are foreground on either side; `not_finite_a`, `not_finite_b` logits that are no finite
    numbers; errors are those of the others.
    """

    either: int
    max_probability_error: float
    mean_probability_error: float
    not_finite_a: int
    not_finite_b: int

    @property
    def iou(self) -> float:
        """Of the decisions; 1 where neither side has any foreground."""
        return 1 - self.different / self.either if self.either else 1.0

    @property
    def rank(self) -> tuple[float, ...]:
        """The least IoU first, of several the one whose probabilities agree least."""
        return (self.iou, -self.max_probability_error)


@dataclass(frozen=True, kw_only=True)
class ForegroundAgreement(Agreement[ForegroundFrameAgreement]):
    """The foreground of one video on both sides."""

    @property
    def max_error(self) -> float:
        """The largest error of any probability."""
        return max(frame.max_probability_error for frame in self.frames)

    @property
    def mean_error(self) -> float:
        """Mean over all probabilities."""
        return statistics.fmean(frame.mean_probability_error for frame in self.frames)

    @property
    def not_finite(self) -> tuple[int, int]:
        """Logits of A and of B that are no finite numbers."""
        return sum(frame.not_finite_a for frame in self.frames), sum(
            frame.not_finite_b for frame in self.frames
        )


def compare_foreground(
    name: str, logits: tuple[Logits, Logits], masks: tuple[Labels, Labels]
) -> ForegroundFrameAgreement:
    """Compare one frame.

    Args:
        name: of the frame.
        logits: of A and of B, of one shape.
        masks: (H, W) of A and of B, 0 or 1.
    """
    finite = [np.isfinite(values) for values in logits]
    known = finite[0] & finite[1]
    a, b = (expit(values[known].astype(np.float64)) for values in logits)
    errors = np.abs(a - b)
    return ForegroundFrameAgreement(
        name=name,
        pixels=masks[0].size,
        different=int(np.count_nonzero(masks[0] != masks[1])),
        either=int(np.count_nonzero((masks[0] != 0) | (masks[1] != 0))),
        max_probability_error=float(errors.max(initial=0.0)),
        mean_probability_error=float(errors.mean()) if errors.size else 0.0,
        not_finite_a=int(np.count_nonzero(~finite[0])),
        not_finite_b=int(np.count_nonzero(~finite[1])),
    )
