"""Choices that survive an outlier channel which a plain maximum does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gmos_deploy.calibration.quantiser.formats import FORMATS
from gmos_deploy.calibration.quantiser.layer_choice import QuantiserOptions
from gmos_deploy.calibration.quantiser.linear_layers import Activation, LinearLayer
from gmos_deploy.errors import GmosError

CHANNELS, OUT, ROWS = 64, 96, 256
OUTLIER, FACTOR = 7, 400.0
NEAREST = {"smoothquant": False, "mean_shift": False, "gptq": False}

RNG = np.random.default_rng(3)
NORMED = RNG.standard_normal((ROWS, CHANNELS)).astype(np.float32)
WEIGHT = (RNG.standard_normal((CHANNELS, OUT)) / 8).astype(np.float32)


def activation(*, norm: str | None) -> Activation:
    layer = LinearLayer(
        node="blocks.0.mlp.fc1/MatMul_0",
        module="blocks.0.mlp.fc1",
        activation="normed",
        shape=(CHANNELS, OUT),
    )
    return Activation(name="normed", layers=(layer,), norm=norm)


def planted() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A channel that is 400 times as large as the others and weighs as much less: the layer computes the same."""
    rows, weight = NORMED.copy(), WEIGHT.copy()
    rows[:, OUTLIER] *= FACTOR
    weight[OUTLIER] /= FACTOR
    return rows, {"blocks.0.mlp.fc1/MatMul_0": weight}


def test_an_outlier_channel_breaks_the_maximum_and_not_the_default(chosen: Callable[..., Any]) -> None:
    """One scale for all channels leaves the others less than one of 127 steps; balancing takes it away."""
    rows, weights = planted()
    plain = chosen(activation(norm="norm"), rows, weights, FORMATS["int8"], method="max", **NEAREST)
    default = chosen(activation(norm="norm"), rows, weights, FORMATS["int8"])
    assert plain.error > 0.5
    assert default.error < 0.03
    assert default.factors is not None
    assert default.factors[OUTLIER] / np.median(default.factors) >= 16


def test_the_default_is_as_good_as_without_the_outlier(chosen: Callable[..., Any]) -> None:
    """Within a fifth of the error of the layer that has none."""
    rows, weights = planted()
    node = next(iter(weights))
    clean = chosen(activation(norm="norm"), NORMED, {node: WEIGHT}, FORMATS["int8"])
    assert chosen(activation(norm="norm"), rows, weights, FORMATS["int8"]).error < 1.2 * clean.error


def test_factors_are_powers_of_two_and_there_are_none_without_a_norm(chosen: Callable[..., Any]) -> None:
    """Halves are divided exactly; a tensor that others read too cannot be changed."""
    rows, weights = planted()
    factors = chosen(activation(norm="norm"), rows, weights, FORMATS["int8"]).factors
    assert (np.log2(factors) % 1 == 0).all()
    assert chosen(activation(norm=None), rows, weights, FORMATS["int8"]).factors is None


def test_rare_spikes_are_clipped_where_that_helps(chosen: Callable[..., Any]) -> None:
    """A few values far outside, which hardly matter to the output but would take all the steps of whole numbers."""
    rows = NORMED.copy()
    rows[0, 0] = 300.0
    weight = WEIGHT.copy()
    weight[0] /= 1000
    weights = {"blocks.0.mlp.fc1/MatMul_0": weight}
    plain = chosen(activation(norm=None), rows, weights, FORMATS["int8"], method="max")
    best = chosen(activation(norm=None), rows, weights, FORMATS["int8"])
    assert best.method != "max"
    assert best.error < plain.error / 5
    # A scale hardly matters to a format with an exponent.
    assert chosen(activation(norm=None), rows, weights, FORMATS["fp8"], method="max").error < 0.05


def test_a_floating_format_has_room_for_what_was_not_seen(chosen: Callable[..., Any]) -> None:
    """Values beyond those of the samples are not clipped, and rounded no worse."""
    node = "blocks.0.mlp.fc1/MatMul_0"
    found = chosen(activation(norm=None), NORMED, {node: WEIGHT}, FORMATS["fp8"])
    scale = FORMATS["fp8"].scale(found.threshold)
    larger = 3.9 * NORMED
    error = np.linalg.norm(FORMATS["fp8"].emulated(larger, scale) - larger) / np.linalg.norm(larger)
    assert error < 0.03


@pytest.mark.parametrize("method", ["max", "percentile", "entropy"])
def test_a_method_that_was_asked_for_is_the_one_that_is_used(method: str, chosen: Callable[..., Any]) -> None:
    """With the percentile given."""
    node = "blocks.0.mlp.fc1/MatMul_0"
    found = chosen(
        activation(norm=None), NORMED, {node: WEIGHT}, FORMATS["int8"], method=method, percentile=99.0
    )
    largest = float(np.abs(NORMED).max())
    expected = {"max": largest, "percentile": np.percentile(np.abs(NORMED), 99.0), "entropy": found.threshold}
    assert found.threshold == pytest.approx(expected[method], rel=0.01)
    assert found.threshold <= largest


def test_dead_layers_and_dead_tensors_have_no_error(chosen: Callable[..., Any]) -> None:
    """Zeros in, zeros out, and no division by zero."""
    node = "blocks.0.mlp.fc1/MatMul_0"
    assert chosen(activation(norm="norm"), NORMED * 0, {node: WEIGHT}, FORMATS["int8"]).error == 0
    assert chosen(activation(norm="norm"), NORMED, {node: WEIGHT * 0}, FORMATS["fp8"]).error == 0


def test_means_that_hide_what_varies_are_taken_away(chosen: Callable[..., Any]) -> None:
    """In a floating format, and only where they are: it is one more operation on a device."""
    node = "blocks.0.mlp.fc1/MatMul_0"
    means = 5 * RNG.standard_normal(CHANNELS).astype(np.float32)
    found = chosen(activation(norm=None), NORMED + means, {node: WEIGHT}, FORMATS["fp8"])
    assert found.mean_shift.dtype == np.float16
    np.testing.assert_allclose(found.mean_shift, means, atol=0.3)
    plain = chosen(activation(norm=None), NORMED + means, {node: WEIGHT}, FORMATS["fp8"], mean_shift=False)
    assert plain.mean_shift is None
    assert found.error < 0.5 * plain.error
    assert chosen(activation(norm=None), NORMED, {node: WEIGHT}, FORMATS["fp8"]).mean_shift is None
    assert chosen(activation(norm=None), NORMED + means, {node: WEIGHT}, FORMATS["int8"]).mean_shift is None


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_the_mean_of_an_output_is_made_up_for(precision: str, chosen: Callable[..., Any]) -> None:
    """Rounding alone leaves a mean error; without GPTQ and mean shift nothing is added."""
    form, node = FORMATS[precision], "blocks.0.mlp.fc1/MatMul_0"
    rows = NORMED + 2
    found = chosen(activation(norm=None), rows, {node: WEIGHT}, form, mean_shift=False)
    layer = found.quantised[node]
    seen = form.emulated(rows, form.scale(found.threshold))
    given = seen @ (layer.weight.astype(np.float32) * layer.scale.astype(np.float32))
    error = given - rows @ WEIGHT
    np.testing.assert_allclose(layer.bias_correction, -error.mean(0), atol=1e-6)
    assert np.abs(error.mean(0)).max() > 1e-3
    plain = chosen(activation(norm=None), rows, {node: WEIGHT}, form, **NEAREST)
    assert plain.quantised[node].bias_correction is None
    assert (plain.quantised[node].weight == form.rounded(WEIGHT, plain.quantised[node].scale)).all()


@pytest.mark.parametrize("percentile", [50.0, 100.5, -1.0])
def test_percentiles_outside_the_range_are_refused(percentile: float) -> None:
    """With what was given and what was expected."""
    with pytest.raises(GmosError, match=r"--percentile .*: expected more than 50, at most 100"):
        QuantiserOptions(percentile=percentile)
