"""What validation lets through, and what it says about the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.export.onnx.validation import first_failure, validation_cases, validation_report
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.runtime.comparison.parity import LIMITS, Array, OutputDifference, difference

RNG = np.random.default_rng(3)
REFERENCE = RNG.standard_normal((2, 3, 4), dtype=np.float32)
TINY = model_spec(preset("tiny"), "gmos")
AT = {"B": 2, "h": 3}


def compare(given: Array, expected: Array = REFERENCE) -> OutputDifference:
    return difference(given, expected, target="standard", lengths=AT, output="tokens")


def check(differences: list[OutputDifference], precision: str, own: Sequence[OutputDifference] = ()) -> None:
    """Raise what is said of the first output that is beyond the limits."""
    failure = first_failure(differences, precision, own)  # type: ignore[arg-type]
    if failure is not None:
        raise GmosError(failure[1])


def test_equal_outputs_pass() -> None:
    """In every precision."""
    found = compare(REFERENCE.copy())
    assert (found.max_abs, found.mean_abs, found.relative, found.changed) == (0, 0, 0, 0)
    assert found.cosine == pytest.approx(1)
    for precision in LIMITS:
        check([found], precision)


def test_the_measures_are_those_of_the_definition() -> None:
    """Of an output that is 1 % too large."""
    found = compare(REFERENCE * np.float32(1.01))
    assert found.relative == pytest.approx(0.01, rel=1e-3)
    assert found.max_abs == pytest.approx(0.01 * np.abs(REFERENCE).max(), rel=1e-3)
    assert found.mean_abs == pytest.approx(0.01 * np.abs(REFERENCE).mean(), rel=1e-3)
    assert found.largest == pytest.approx(found.max_abs / np.sqrt((REFERENCE**2).mean()), rel=1e-3)


def test_a_failure_names_network_output_lengths_and_amount() -> None:
    """In one line."""
    found = compare(REFERENCE * np.float32(1.01))
    assert first_failure([found], "fp16") is None
    failure = first_failure([compare(REFERENCE.copy()), found], "fp32")
    assert failure is not None
    assert failure[0] == found
    assert failure[1].startswith("tokens at B=2 h=3: relative error 0.01 (limit 0.0001)")


def test_one_wrong_value_among_many_fails() -> None:
    """The relative error alone would let it through."""
    expected = RNG.standard_normal(1_000_000, dtype=np.float32)
    given = expected.copy()
    given[77] += 0.05
    found = compare(given, expected)
    assert found.relative < LIMITS["fp32"].relative
    with pytest.raises(GmosError, match=r"largest error over the root mean square 0\.0"):
        check([found], "fp32")


@pytest.mark.parametrize(("share", "passes"), [(1.05, True), (1.058, True), (1.07, False)])
def test_the_reference_may_be_off_itself(share: float, passes: bool) -> None:
    """Where its own fp16 is beyond the limits, an export may be twice as far off, not more."""
    own, found = compare(REFERENCE * np.float32(1.03)), compare(REFERENCE * np.float32(share))
    with pytest.raises(GmosError, match=r"relative error 0\.0\d+ \(limit 0\.02\)"):
        check([found], "fp16")
    assert validation_report([found], "fp16", twin=False, own=[own])["passed"] == passes
    if passes:
        check([found], "fp16", [own])
    else:
        with pytest.raises(GmosError, match=r"relative error 0\.07 \(limit 0\.0[56]\d*\)"):
            check([found], "fp16", [own])


def test_an_error_elsewhere_excuses_nothing() -> None:
    """Neither of another output nor at other lengths."""
    found = compare(REFERENCE * np.float32(1.05))
    other = replace(compare(REFERENCE * np.float32(1.04)), output="geometry")
    longer = replace(compare(REFERENCE * np.float32(1.04)), lengths={"B": 1, "h": 3})
    with pytest.raises(GmosError, match="tokens at B=2 h=3"):
        check([found], "fp16", [other, longer])


def test_a_small_wrong_direction_fails() -> None:
    """A cosine below the limit is an error of its own."""
    found = compare(-REFERENCE)
    assert found.cosine == pytest.approx(-1)
    with pytest.raises(GmosError, match=r"cosine -1\.0"):
        check([found], "bf16")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_fail(value: float) -> None:
    """Whatever the other measures say."""
    given = REFERENCE.copy()
    given[0, 0, 0] = value
    with pytest.raises(GmosError, match="values that are not finite: 1, the trusted side 0"):
        check([compare(given)], "bf16")


def test_labels_are_held_by_how_many_differ() -> None:
    """Labels are names: how far apart they are means nothing."""
    expected = np.zeros((1, 100, 100), np.uint8)
    given = expected.copy()
    given[0, 0, 0] = 200
    found = compare(given, expected)
    assert (found.changed, found.relative) == (1e-4, 0)
    check([found], "fp32")
    given[0, :1] = 200
    with pytest.raises(GmosError, match=r"share of changed values 0\.01"):
        check([compare(given, expected)], "fp32")


def test_another_shape_is_an_error() -> None:
    """No measure can be taken."""
    with pytest.raises(GmosError, match=r"exported tokens has shape \(2, 3\), expected \(2, 3, 4\)"):
        compare(REFERENCE[..., 0])


def test_a_single_value_can_be_compared() -> None:
    """Against its size."""
    expected = np.full((1,), 10.0, np.float32)
    check([compare(expected + np.float32(1e-5), expected)], "fp32")
    with pytest.raises(GmosError, match=r"relative error 0\.1"):
        check([compare(expected * np.float32(1.1), expected)], "fp32")


def test_an_empty_output_passes() -> None:
    """A network may be asked about nothing."""
    empty = np.zeros((0, 3), np.float32)
    check([compare(empty, empty)], "fp32")


def test_the_report_keeps_a_failure() -> None:
    """As --no_validation would show it."""
    found = validation_report([compare(REFERENCE * 2)], "fp32", twin=False)
    assert found["passed"] is False
    assert found["differences"][0]["relative"] == pytest.approx(1)


def test_two_batches_and_two_resolutions_are_compared() -> None:
    """Of every network that has them."""
    for name in ("dino", "pi3_decoder", "proposer", "gmos_s"):
        model = replace(TINY, variant="gmos-s") if name == "gmos_s" else TINY
        first, second = validation_cases(name, model)
        assert first["B"] != second["B"]
        assert (first["h"], first["w"]) != (second["h"], second["w"])
    assert {case["P"] for case in validation_cases("memory_attention", TINY)} == {0, 4}
