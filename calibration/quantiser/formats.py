"""The two eight-bit formats: how values are rounded to them, and how a scale is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...runtime.precision import PrecisionName

Array = NDArray[Any]

LEAST_SCALE = 2.0**-20
"""Least scale: a float16 below its normal range, still with four bits of its own. Weights that ask for less are
rounded to zero where they are smaller than half of it, 5e-7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """An eight-bit format with zero point 0.

    `largest` is the greatest magnitude that is used: -128 of int8 has no opposite. `per_channel` says whether
    each output channel of a weight has a scale of its own. A `floating` format has an exponent, so scales hardly matter
    to it: balancing channels by powers of two does nothing, and `headroom` times the range that was seen costs nothing.
    What matters to it is how large values are, so their means are taken away; in whole numbers the narrower range that
    this leaves is clipped on other videos.
    """

    name: PrecisionName
    largest: float
    dtype: ir.DataType
    per_channel: bool
    floating: bool
    headroom: float

    def scale(self, threshold: Array | float) -> Array:
        """Scales in float16 for thresholds: rounded up, so that nothing within them is clipped."""
        exact = np.maximum(np.asarray(threshold, np.float64) / self.largest, LEAST_SCALE)
        stored = exact.astype(np.float16)
        return np.where(stored < exact, np.nextafter(stored, np.float16(np.inf)), stored)

    def rounded(self, values: Array, scale: Array) -> Array:
        """Values over their scale, in the format's own type."""
        over = np.asarray(values, np.float32) / np.asarray(scale, np.float32)
        clipped = np.clip(over, -self.largest, self.largest)
        if not self.floating:
            clipped = np.rint(clipped)
        return clipped.astype(self.dtype.numpy())

    def emulated(self, values: Array, scale: Array) -> Array:
        """Values as they come back, in float32."""
        return self.rounded(values, scale).astype(np.float32) * np.asarray(scale, np.float32)


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format(
            name="int8",
            largest=127.0,
            dtype=ir.DataType.INT8,
            per_channel=True,
            floating=False,
            headroom=1.0,
        ),
        # TensorRT takes one scale per tensor here; an exponent of four bits makes up for it.
        Format(
            name="fp8",
            largest=448.0,
            dtype=ir.DataType.FLOAT8E4M3FN,
            per_channel=False,
            floating=True,
            headroom=4.0,
        ),
    )
}
"""By precision: one for each that `runtime.precision` has as a quantised one."""


def weight_forms(form: Format) -> tuple[Format, ...]:
    """Formats of the weights of weight-only layers, beside layers in `form`.

    A scale per channel and equal steps lose least, unless inputs of a layer differ too much in size. int8 is known to
    every GPU that knows fp8, not the other way about.
    """
    return (FORMATS["int8"], form) if form.floating else (form,)
