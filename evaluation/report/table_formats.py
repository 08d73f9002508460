"""A table as Markdown, LaTeX or CSV, and a document as Markdown: for papers, issues and release notes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...errors import as_cell
from .document import Block, Document, Facts, Remarks, Section, Table, Text

Rows = tuple[list[str], list[bool], list[list[str]]]
"""Heads, which columns are numbers, and the cells of each row."""

LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
}


def rows_of(table: Table[Any]) -> Rows:
    """The columns in which anything is known, without drawings."""
    filled = [(column, cells) for column, cells in table.filled() if any(cell.text for cell in cells)]
    heads = [column.name + (f" ({column.of})" if column.of else "") for column, _ in filled]
    cells = [[cells[row].text for _, cells in filled] for row in range(len(table.entries))]
    return heads, [bool(column.form) for column, _ in filled], cells


def as_markdown(table: Table[Any]) -> str:
    """A table with pipes, numbers on the right."""
    heads, numbers, rows = rows_of(table)
    rule = ["---:" if number else "---" for number in numbers]
    lines = [map(_marked, heads), rule, *(map(_marked, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _marked(text: str) -> str:
    """Without what Markdown or HTML would take for its own; in one line."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def as_latex(table: Table[Any]) -> str:
    """A tabular with rules of LaTeX itself, so that it needs no package."""
    heads, numbers, rows = rows_of(table)
    columns = "".join("r" if number else "l" for number in numbers)
    head, *body = [f"{' & '.join(map(_escaped, line))} \\\\" for line in (heads, *rows)]
    lines = [f"\\begin{{tabular}}{{{columns}}}", r"\hline", head, r"\hline", *body, r"\hline"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text)


def as_csv(table: Table[Any]) -> str:
    """Heads, then the rows; text that a spreadsheet would compute gets a quote, numbers stay as they are."""
    heads, numbers, rows = rows_of(table)
    text = io.StringIO()
    lines = [
        [cell if number else as_cell(cell) for cell, number in zip(row, numbers, strict=True)] for row in rows
    ]
    csv.writer(text, lineterminator="\n").writerows([list(map(as_cell, heads)), *lines])
    return text.getvalue()


TABLE_FORMATS: Mapping[str, Callable[[Table[Any]], str]] = {
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
}
"""By their names in --format; `terminal` shows text."""


def markdown(document: Document) -> str:
    """A document without its drawings, plots and pictures."""
    parts = [f"# {_marked(document.title)}", _marked(document.lead)]
    parts += [f"- {letter}: `{side}`" for letter, side in document.sides.items()]
    if document.verdict is not None:
        parts.append(f"**{_marked(document.verdict.value)}**")
    for section in [*([document.remarks] if document.remarks else []), *document.sections]:
        parts += _section(section)
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section) -> Iterator[str]:
    blocks = [text for block in section.blocks if (text := _block(block))]
    if blocks and section.where != "terminal":
        yield f"## {_marked(section.title)}"
        yield from blocks


def _block(block: Block) -> str:
    if isinstance(block, Table):
        title = f"{_marked(block.folded)}:\n\n" if block.folded else ""
        return title + as_markdown(block).rstrip() if block.entries else ""
    if isinstance(block, Text):
        return _marked(block.text)
    if isinstance(block, Remarks):
        return _listed(block.lines)
    if isinstance(block, Facts):
        return _listed([f"{name}: {value}" for name, value in block.facts])
    return ""


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_marked(line)}" for line in lines)
