"""The rate of a source that states none: measured over its first frames."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from ..video.sequence import WINDOW_RATE_FPS

MULTIPLE_SLACK = 0.02
"""A measured rate that is so near to a multiple of 8, as a share of it, counts as that: int(23.99 / 8) is 2, not 3."""

LEAST_INTERVALS, MOST_INTERVALS = 6, 60
MEASURED_S = 1.0
"""A second of frames is measured, but no fewer intervals than six and no more than sixty."""
PATIENCE_S = 5.0
"""Of a slow source two intervals are enough by then."""


def settled_rate(measured_fps: float) -> float:
    """A measured rate in frames per second as it counts: the multiple of 8 that it is within 2 % of, else itself."""
    multiple = round(measured_fps / WINDOW_RATE_FPS) * WINDOW_RATE_FPS
    near = multiple > 0 and abs(measured_fps - multiple) <= MULTIPLE_SLACK * multiple
    return float(multiple) if near else measured_fps


def measured_rate(times_s: Sequence[float], *, ended: bool = False) -> float | None:
    """The rate at which frames come, in frames per second; None while there are too few.

    A frame that was lost on the way is an interval of two, and counts as two.

    Args:
        times_s: of the frames so far, growing, in seconds.
        ended: no more will come: whatever is there is enough.
    """
    gaps = [after - before for before, after in pairwise(times_s) if after > before]
    if not gaps:
        return None
    span_s = sum(gaps)
    enough = (
        ended
        or len(gaps) >= MOST_INTERVALS
        or (len(gaps) >= LEAST_INTERVALS and span_s >= MEASURED_S)
        or (len(gaps) >= 2 and span_s >= PATIENCE_S)
    )
    if not enough:
        return None
    usual_s = median(gaps)
    return sum(max(1, round(gap / usual_s)) for gap in gaps) / span_s
