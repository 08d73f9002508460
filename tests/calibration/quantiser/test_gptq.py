"""Rounding that makes up for itself: less error in outputs, on rows that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from gmos_deploy.calibration.quantiser import gptq
from gmos_deploy.calibration.quantiser.formats import FORMATS
from gmos_deploy.calibration.quantiser.gptq import Gptq, RoundedWeights
from gmos_deploy.calibration.quantiser.layer_choice import weight_scale

CHANNELS, OUT, SOURCES = 96, 40, 12

RNG = np.random.default_rng(5)
WEIGHT = (RNG.standard_normal((CHANNELS, OUT)) / 10).astype(np.float32)
MIXING = RNG.standard_normal((SOURCES, CHANNELS))
SEEN, UNSEEN = (
    (RNG.standard_normal((4000, SOURCES)) @ MIXING + 0.3 * RNG.standard_normal((4000, CHANNELS))).astype(
        np.float32
    )
    for _ in range(2)
)
"""Channels that go together, as those of a network do: most of what varies has 12 sources."""


def moment(rows: np.ndarray) -> np.ndarray:
    return rows.T.astype(np.float64) @ rows / len(rows)


def output_error(stored: np.ndarray, scale: np.ndarray) -> float:
    expected = UNSEEN @ WEIGHT
    given = UNSEEN @ (stored.astype(np.float32) * scale.astype(np.float32))
    return float(np.linalg.norm(given - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_outputs_are_nearer_than_with_the_nearest_weights(precision: str) -> None:
    """On other rows of the same kind; the weights themselves are further off."""
    form = FORMATS[precision]
    scale = weight_scale(WEIGHT, form)
    nearest, made = form.rounded(WEIGHT, scale), Gptq(moment(SEEN)).rounded(WEIGHT, scale, form)
    assert made.dtype == nearest.dtype
    assert made.shape == WEIGHT.shape
    assert output_error(made, scale) < 0.4 * output_error(nearest, scale)
    off = [
        np.linalg.norm(stored.astype(np.float32) * scale.astype(np.float32) - WEIGHT)
        for stored in (nearest, made)
    ]
    assert off[0] < off[1]


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("variances", ["equal", "different", "none"])
def test_channels_that_do_not_go_together_are_rounded_to_the_nearest(precision: str, variances: str) -> None:
    """Whatever their variances: no channel can make up for another; a dead tensor is no reason to fail."""
    form = FORMATS[precision]
    scale = weight_scale(WEIGHT, form)
    diagonal = {"equal": np.ones(CHANNELS), "different": np.arange(CHANNELS) / 7, "none": np.zeros(CHANNELS)}
    found = Gptq(np.diag(diagonal[variances])).rounded(WEIGHT, scale, form)
    assert (found == form.rounded(WEIGHT, scale)).all()


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors passed on in blocks are those passed on one by one, but for sums in another order."""
    form = FORMATS["int8"]
    scale = weight_scale(WEIGHT, form)
    made = []
    for block in (1, 7, 128):
        monkeypatch.setattr(gptq, "BLOCK", block)
        made.append(Gptq(moment(SEEN)).rounded(WEIGHT, scale, form).astype(int))
    assert np.count_nonzero(made[0] - made[1]) < 0.005 * WEIGHT.size
    assert np.count_nonzero(made[0] - made[2]) < 0.005 * WEIGHT.size


def test_fewer_rows_than_channels_and_sums_that_are_off_are_survived() -> None:
    """A moment of low rank, and one that rounding has made slightly negative."""
    form = FORMATS["int8"]
    scale = weight_scale(WEIGHT, form)
    low = moment(SEEN[:5])
    assert output_error(Gptq(low).rounded(WEIGHT, scale, form), scale) < 0.1
    negative = low - 0.5 * np.trace(low) / CHANNELS * np.eye(CHANNELS)
    assert Gptq(negative).rounded(WEIGHT, scale, form).shape == WEIGHT.shape


def test_networks_that_share_a_weight_share_what_it_became() -> None:
    """Rounded for the first that asks; another weight is another."""
    form, weights = FORMATS["fp8"], RoundedWeights()
    scale = weight_scale(WEIGHT, form)
    first = weights.rounded(WEIGHT, scale, form, Gptq(moment(SEEN)))
    again = weights.rounded(WEIGHT.copy(), scale, form, Gptq(np.eye(CHANNELS)))
    assert (first == again).all()
    other = weights.rounded(WEIGHT * 2, scale, form, Gptq(np.eye(CHANNELS)))
    assert (other == form.rounded(WEIGHT * 2, scale)).all()
