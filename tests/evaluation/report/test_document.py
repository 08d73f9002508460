"""A document on a terminal, as a page and as values: what fits where, and what no rendering loses."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from gmos_deploy.evaluation.report.document import (
    Card,
    Cell,
    Column,
    Document,
    Facts,
    Plot,
    Remarks,
    Section,
    Table,
    Text,
    Timeline,
    TimelineRow,
    breakable,
    lettered,
)
from gmos_deploy.evaluation.report.drawings import plot, timeline
from gmos_deploy.evaluation.report.files import plain, read_json, write_report
from gmos_deploy.evaluation.report.html_page import page
from gmos_deploy.evaluation.report.terminal import show

Row = tuple[str, str, float | None]
ROWS: list[Row] = [
    ("memory_attention O=4 P=16 M=7", "A", 12.345),
    ("memory_attention O=4 P=16 M=7", "B", None),
    ("dino/blocks.0/attention/projection/product[a...b]/with_a_very_long_name", "A", math.inf),
]


def document(rows: list[Row] = ROWS, *, others: int = 3) -> Document:
    """A table with more columns than a narrow terminal has room for, a folded one, remarks and a verdict."""
    columns: list[Column[Row]] = [
        Column("network", lambda row: row[0]),
        Column("side", lambda row: row[1]),
        Column("median ms", lambda row: row[2], ".2f", "of 10 calls"),
        *(Column(f"other {n}", lambda row: row[2], ".6f", "of 10 rounds", "room") for n in range(others)),
        Column("rest", lambda row: Cell("wide", 1.0), "d", "", "wide"),
    ]
    folded: list[Column[Row]] = [Column("layer", lambda row: row[0])]
    return Document(
        title="a <title> [bold]",
        sides={"A": "torch:[nano]", "B": "masks:<b>"},
        sections=[
            Section("Networks", [Text("explained"), Table(columns=columns, entries=rows)]),
            Section("Layers", [Table(columns=folded, entries=rows, folded="the slowest layers")]),
            Section("Empty", [Table(columns=folded, entries=[])]),
            Section("Facts", [Facts([("name", "value")])], "page"),
        ],
        remarks=Section("Warnings", [Remarks(["a [b] <c>"], word="warning")]),
        verdict=Card("Verdict", "FAIL", tone="bad"),
    )


def printed(given: Document, *, width: int = 80, wide: bool = False) -> str:
    out = io.StringIO()
    show(given, wide=wide, console=Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_gets_what_fits(width: int) -> None:
    """Columns that there is no room for go, the last first; long names end their lines between words."""
    text = printed(document(), width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "rest" not in text
    assert "slowest layers" not in text
    assert "explained" not in text
    assert ("other 0" in " ".join(text.split())) == (width > 60)
    parts = {part for row in ROWS for word in row[0].split() for part in breakable(word)}
    assert all(part in text for part in parts), "no part is broken"
    assert text.count("memory_attention") == 1, "of rows with one name the first has it"
    assert text.rstrip().endswith("warning: a [b] <c>\nFAIL")
    assert "A: torch:[nano]" in text


def test_wide_shows_everything() -> None:
    """Every column and folded table, in lines as long as they need."""
    text = printed(document(), wide=True)
    assert all(word in text for word in ("rest", "other", "the slowest layers", ROWS[2][0]))


def test_without_a_terminal_no_line_is_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    """What a file gets has the same columns as a terminal of any width."""
    show(document())
    text = capsys.readouterr().out
    assert ROWS[2][0] in text
    assert "rest" not in text


def test_numbers_are_not_broken() -> None:
    """A line does not end within a number."""
    assert breakable("a/b.c_0.99:x-1e-05") == ["a/", "b.", "c_0.99:", "x-1e-05"]


def test_a_page_escapes_and_sorts() -> None:
    """Names are no markup; numbers sort as numbers, what is missing or endless at the ends; no empty sections."""
    text = page(document()).replace("<wbr>", "")
    assert "a &lt;title&gt; [bold]" in text
    assert "<b>&lt;" not in text
    assert 'data-v="12.345"' in text
    assert 'data-v="1e+308">inf' in text
    assert 'data-v="-1.0">–' in text
    assert "<h2>Empty</h2>" not in text
    assert "<h2>Facts</h2>" in text
    assert '<button type="button">median ms</button><small>of 10 calls</small>' in text
    assert "<summary>the slowest layers</summary>" in text
    assert "http" not in text


def test_plots() -> None:
    """Lines with their limit, points with their words, and rows over time whose short gaps are closed."""
    frames = [(0, 1.0, "a"), (1, 0.95, "b"), (2, 1.0, "c")]
    drawn = plot(Plot(points=frames, across="frame", up="IoU", caption="c", near_one=True, limit=0.98))
    assert ">0.9<" in drawn, "the axis begins just below the least value"
    assert drawn.count("<polyline") == drawn.count('class="limit"') == 1
    drawn = plot(Plot(points=[(1, 2, "one"), (2, 0, "two")], across="x", up="y", joined=False, caption="c"))
    assert drawn.count("<circle") == 2
    assert "<polyline" not in drawn
    assert 'class="limit"' not in drawn
    rows = [TimelineRow(label="decode", kind="ahead", intervals=[(0, 1), (1.0001, 2), (5, 6)])]
    drawn = timeline(Timeline(rows=rows, bands=[("stage", (0, 6))], caption="c"))
    assert 'class="ahead"' in drawn
    (path,) = [part for part in drawn.split("<path") if 'class="ahead"' in part]
    assert path.count("M") == 2
    assert timeline(Timeline(rows=[], bands=[], caption="")) == ""


@dataclass(frozen=True)
class Measured:
    name: str
    values: tuple[float, ...]
    path: dict[int, float]


def test_values_are_written_as_json(tmp_path: Path) -> None:
    """Dataclasses as objects, what is not finite as null; the three files are whole."""
    found = Measured("a", (1.0, math.nan), {1: math.inf})
    assert plain(found) == {"name": "a", "values": [1.0, None], "path": {"1": None}}
    assert plain(found, omit=("path", "values")) == {"name": "a"}
    write_report(tmp_path / "deep", document(), {"schema": "s/1", "found": found}, [found, found])
    result = read_json(tmp_path / "deep" / "result.json", schema="s/1", what="a test's")
    assert result["found"] == plain(found)
    lines_written = (tmp_path / "deep" / "observations.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines_written] == [plain(found)] * 2
    assert (tmp_path / "deep" / "report.html").stat().st_size > 1000


def test_a_column_of_which_nothing_is_known_is_not_there() -> None:
    """As the GPU's time where there is none."""
    columns: list[Column[Row]] = [Column("name", lambda row: row[0]), Column("gpu", lambda row: None, ".2f")]
    given = Document(title="t", sections=[Section("s", [Table(columns=columns, entries=ROWS)])])
    assert "gpu" not in printed(given)
    assert "gpu" not in page(given)


def test_sides_get_letters() -> None:
    """In the order given."""
    assert lettered(["x", "y"]) == {"x": "A", "y": "B"}
