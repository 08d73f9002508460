"""A document on a terminal: tables that fit it, without broken words, remarks and verdict last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text as RichText

from ...errors import printable
from .document import Block, Cell, Column, Document, Facts, Remarks, Table, Text, breakable

WIDE = 1000
"""Columns where there is no limit: every column is shown, or the output is no terminal."""

GAP = 1
SPACE = GAP + 1
"""What a column takes beside its cells: rich keeps one more for the rule between two."""

HEAD_WIDTH = 12
"""A head that is longer than this and than its cells takes another line."""

LEAST_TEXT_WIDTH, NAME_WIDTH = 8, 32
"""Columns of text become no narrower than this; and wider only where no other column goes for it."""

STYLES = {"": "", "good": "bold green", "bad": "red", "dim": "dim"}


def show(document: Document, *, wide: bool = False, console: Console | None = None) -> None:
    """Print a document.

    Args:
        document: what.
        wide: every column and every table, in lines as long as they need.
        console: where to; None is stdout, where lines are not wrapped if that is no terminal.
    """
    found = console or Console()
    narrow = found.width if console is not None or found.is_terminal else WIDE
    target = Console(width=WIDE, file=found.file) if wide or narrow == WIDE else found
    target.print(Group(*_document(document, width=WIDE if wide else narrow, wide=wide)), highlight=False)


def _document(document: Document, *, width: int, wide: bool) -> Iterator[RenderableType]:
    yield RichText(_broken(document.title, width), style="bold")
    for letter, side in document.sides.items():
        yield RichText(_broken(f"{letter}: {side}", width))
    if document.sides:
        yield RichText("")
    for section in document.sections:
        if section.where == "page":
            continue
        shown = [part for block in section.blocks for part in _block(block, width=width, wide=wide)]
        if shown and section.title:
            yield RichText(printable(section.title), style="bold")
        yield from shown
    if document.remarks is not None:
        yield from (p for block in document.remarks.blocks for p in _block(block, width=width, wide=wide))
    if document.verdict is not None:
        yield RichText(
            printable(document.verdict.value), style=f"bold {STYLES[document.verdict.tone]}".strip()
        )


def _block(block: Block, *, width: int, wide: bool) -> Iterator[RenderableType]:
    if isinstance(block, Table):
        if block.entries and (wide or not block.folded):
            if block.folded:
                yield RichText(_broken(block.folded, width))
            yield _table(block, width=width, wide=wide)
            yield RichText("")
    elif isinstance(block, Text):
        if block.everywhere:
            yield RichText(_broken(block.text, width), style="dim")
    elif isinstance(block, Facts):
        yield from (RichText(_broken(f"{name}: {value}", width)) for name, value in block.facts)
    elif isinstance(block, Remarks):
        style = STYLES[block.tone] or "yellow"
        word = f"{block.word}: " if block.word else ""
        yield from (RichText(_broken(f"{word}{line}", width), style=style) for line in block.lines)


@dataclass(slots=True)
class _Fitted:
    """A column with its cells and the width that it gets."""

    column: Column[Any]
    cells: list[Cell]
    width: int

    @classmethod
    def of(cls, column: Column[Any], cells: list[Cell]) -> _Fitted:
        """At the width that it would like: heads take another line before they make a column wide."""
        head = max(len(column.name), len(column.of))
        words = (len(word) for word in f"{column.name} {column.of}".split())
        return cls(column, cells, max(min(head, HEAD_WIDTH), *words, *(len(cell.text) for cell in cells), 1))

    @property
    def least(self) -> int:
        """Width below which words would break."""
        parts = (part for cell in self.cells for word in cell.text.split() for part in breakable(word))
        return max(LEAST_TEXT_WIDTH, *map(len, parts), 1)

    @property
    def comfortable(self) -> int:
        """The width that it gets before other columns go."""
        return self.width if self.column.form else min(self.width, max(self.least, NAME_WIDTH))


def _table(table: Table[Any], *, width: int, wide: bool) -> RenderableType:
    """The columns that there is room for; what is still too long ends its line between words."""
    kept = ("always", "room", "wide") if wide else ("always", "room")
    fitted = [_Fitted.of(column, cells) for column, cells in table.filled() if column.shown in kept]
    for spare in [one for one in reversed(fitted) if one.column.shown == "room"]:
        if sum(one.comfortable + SPACE for one in fitted) > width:
            fitted.remove(spare)
    _narrow(fitted, width)
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP, 0, 0), show_edge=False)
    for one in fitted:
        lines = [_broken(line, one.width) for line in (one.column.name, one.column.of) if line]
        shown.add_column(
            RichText("\n".join(lines), style="bold"),
            justify="right" if one.column.form else "left",
            width=one.width,
            no_wrap=True,
        )
    before = ""
    for name, *rest in zip(*(one.cells for one in fitted), strict=True):
        # Of rows with one name, as of all sides, the first has it.
        row = [Cell("") if name.text == before else name, *rest]
        before = name.text
        shown.add_row(
            *(
                RichText(_broken(cell.text, one.width), style=STYLES[cell.tone])
                for one, cell in zip(fitted, row, strict=True)
            )
        )
    return shown


def _narrow(fitted: Sequence[_Fitted], width: int) -> None:
    """Take what is too much from the columns of text, the widest first."""
    text = [one for one in fitted if not one.column.form]
    while text and (beyond := sum(one.width + SPACE for one in fitted) - width) > 0:
        widest = max(text, key=lambda one: one.width)
        next_widest = max((one.width for one in text if one is not widest), default=0)
        target = max(widest.least, widest.width - beyond, next_widest - 1)
        if target >= widest.width:
            text.remove(widest)
        else:
            widest.width = target


def _broken(text: str, width: int) -> str:
    """A text in lines of a width, ended between words, or within those that are longer than a line."""
    lines = [""]
    for word in printable(text).split(" "):
        space = " " if lines[-1] else ""
        if len(lines[-1]) + len(space) + len(word) <= width:
            lines[-1] += space + word
            continue
        if lines[-1]:
            lines.append("")
        for part in breakable(word) if len(word) > width else [word]:
            if lines[-1] and len(lines[-1]) + len(part) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(lines)
