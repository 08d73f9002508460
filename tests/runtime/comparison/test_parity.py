"""One comparison of a network's outputs: queries in any order, the worst output, and a line that says where."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import gmos_deploy
from gmos_deploy.runtime.comparison.parity import (
    LIMITS,
    compare_outputs,
    difference,
    worst_of,
    worst_severity,
)
from gmos_deploy.runtime.comparison.run_results import INPUTS_FILE, leave_call, run_line

RNG = np.random.default_rng(7)
OUTPUTS = {
    "tokens": RNG.standard_normal((2, 3), dtype=np.float32),
    "mask": RNG.integers(0, 2, (2, 8, 8), dtype=np.uint8),
}
AT = {"B": 2}


def test_outputs_are_compared_by_name() -> None:
    """What is not expected is left out; the worst output is told in one line, with where it was."""
    given = {**OUTPUTS, "tokens": OUTPUTS["tokens"] * np.float32(1.01), "more": np.zeros(1)}
    found = compare_outputs("dino", given, OUTPUTS, target="engine", lengths=AT)
    assert [one.output for one in found] == ["tokens", "mask"]
    worst = worst_of(found)
    assert (worst.output, worst.target, worst.lengths) == ("tokens", "engine", AT)
    assert worst_severity(found) == worst.severity == pytest.approx(0.01, rel=1e-3)
    assert worst.failure(LIMITS["fp32"]) == "tokens at B=2: relative error 0.01 (limit 0.0001), " + (
        f"largest error over the root mean square {worst.largest:.3g} (limit 0.002)"
    )
    assert worst.failure(LIMITS["fp16"]) is None


def test_the_proposers_queries_may_come_in_another_order() -> None:
    """In every comparison, with all that belongs to them."""
    outputs = {
        "mask_logits": RNG.normal(size=(1, 5, 8, 8)),
        "motion_logits": RNG.normal(size=(1, 5, 1)),
        "ious": RNG.random((1, 5)),
    }
    turned = {name: values[:, ::-1] for name, values in outputs.items()}
    assert worst_severity(compare_outputs("proposer", turned, outputs, target="", lengths={})) == 0
    assert worst_severity(compare_outputs("gmos_s", turned, outputs, target="", lengths={})) > 0


def test_values_that_are_not_finite_are_counted_on_both_sides() -> None:
    """They are the worst that can be; errors are those of the others."""
    expected, given = OUTPUTS["tokens"].copy(), OUTPUTS["tokens"].copy()
    expected[0, 0], given[1, :2] = np.inf, np.nan
    found = difference(given, expected, output="tokens")
    assert (found.not_finite_a, found.not_finite_b, found.severity) == (1, 2, math.inf)
    assert math.isfinite(found.relative)
    assert found.excess(LIMITS["int8"]) == "it has values that are not finite: 2, the trusted side 1"


def test_nothing_compared_is_not_wrong() -> None:
    """A network without outputs here has the least severity."""
    assert worst_severity([]) == 0


def test_a_line_for_polygraphy_has_the_limit_as_tolerance(tmp_path: Path) -> None:
    """In the output's own unit; whole numbers have none."""
    line = run_line(Path("a graph.onnx"), tmp_path, "reference", OUTPUTS, LIMITS["fp16"])
    rms = float(np.sqrt((OUTPUTS["tokens"].astype(np.float64) ** 2).mean()))
    assert line.startswith("polygraphy run 'a graph.onnx' --onnxrt --load-inputs ")
    assert line.endswith(f"--rtol 0 --atol tokens:{0.2 * rms:.3g} mask:0")


def test_what_cannot_be_kept_does_not_hide_what_was_wrong(tmp_path: Path) -> None:
    """The sentence says why; nothing is raised."""
    place = tmp_path / "file"
    place.write_text("")
    said = leave_call(Path("g"), place, {}, {"a": OUTPUTS}, side="a", limits=LIMITS["fp32"])
    assert said.startswith("its inputs and outputs could not be kept: cannot write")
    said = leave_call(Path("g"), tmp_path / "new", {}, {"a": OUTPUTS}, side="a", limits=LIMITS["fp32"])
    assert said.splitlines()[1].startswith("polygraphy run g --onnxrt")
    assert (tmp_path / "new" / INPUTS_FILE).is_file()


def test_graphs_run_in_one_place() -> None:
    """One file of the product opens sessions of ONNX Runtime."""
    root = Path(gmos_deploy.__file__).parent
    found = [
        path.relative_to(root).as_posix()
        for package in ("runtime", "gmos_ref", "export", "calibration", "evaluation")
        for path in (root / package).rglob("*.py")
        if "InferenceSession(" in path.read_text(encoding="utf-8")
    ]
    assert found == ["runtime/onnx/sessions.py"]
