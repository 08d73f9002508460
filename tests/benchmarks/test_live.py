"""What measures the memory of streams, on a few frames, and what computes it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def test_the_curve_of_a_stream(
    module: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A point every few frames, in both files, and a line that says how much it grows."""
    out = tmp_path / "curve"
    module("live_memory").main(["--frames", "14", "--every", "4", "--variant", "gmos-s", "--out", str(out)])
    with out.with_suffix(".csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in rows] == [1, 5, 9, 13]
    assert all(float(row["resident_mib"]) > 10 for row in rows)
    document = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert (document["frames"], document["answered"], len(document["curve"])) == (14, 14, 4)
    assert capsys.readouterr().out.startswith("gmos-s tiny, 14 frames, 14 answered, 0 ids: resident ")


def test_what_a_stream_keeps(module: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    """The table of docs/edge.md."""
    module("live_arrays").main([])
    table = capsys.readouterr().out.split("\n\n", 1)[1]
    page = Path(__file__).parents[2] / "docs" / "edge.md"
    assert table.strip() in page.read_text(encoding="utf-8")
