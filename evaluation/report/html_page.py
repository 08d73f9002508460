"""A document as one self-contained HTML page."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ...runtime.files.atomic_file import replaced_at_end
from . import document as doc
from .drawings import drawn, escaped, plot, swatch, timeline
from .page_style import SCRIPT, STYLE

LONG_TEXT = 12
"""From this length on a text may end its line between words that no space divides."""


def write_page(path: Path, document: doc.Document) -> None:
    """Write a document as a page.

    Raises:
        GmosError: the file cannot be written.
    """
    with replaced_at_end(path) as temporary:
        temporary.write_text(page(document), encoding="utf-8", errors="backslashreplace")


def page(document: doc.Document) -> str:
    """The text of the page."""
    cards = [*([document.verdict] if document.verdict else []), *document.cards]
    sections = [*([document.remarks] if document.remarks else []), *document.sections]
    if document.environment is not None:
        sections.append(doc.Section("Made on", [doc.facts_of(document.environment)]))
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escaped(document.title)}</title><style>{STYLE}</style></head><body>",
            f'<h1>{escaped(document.title)}</h1><p class="dim">{escaped(document.lead)}</p>',
            _facts(list(document.sides.items()), "sides"),
            f'<div class="cards">{"".join(map(_card, cards))}</div>' if cards else "",
            *map(_section, sections),
            f"<script>{SCRIPT}</script></body></html>\n",
        )
    )


def _card(card: doc.Card) -> str:
    words = f'<span class="dim">{escaped(card.words)}</span>' if card.words else ""
    return f'<div class="card">{escaped(card.title)}<b class="{card.tone}">{escaped(card.value)}</b>{words}</div>'


def _section(section: doc.Section) -> str:
    body = "".join(
        f'<div class="figures">{"".join(map(_block, blocks))}</div>'
        if plots
        else "".join(map(_block, blocks))
        for plots, blocks in groupby(section.blocks, lambda block: isinstance(block, doc.Plot))
    )
    return f"<h2>{escaped(section.title)}</h2>{body}" if body and section.where != "terminal" else ""


def _block(block: doc.Block) -> str:
    match block:
        case doc.Table():
            return _table(block)
        case doc.Text():
            return f'<p class="dim">{escaped(block.text)}</p>'
        case doc.Remarks():
            items = "".join(f"<li>{escaped(line)}</li>" for line in block.lines)
            return f'<ul class="remarks {block.tone}">{items}</ul>' if items else ""
        case doc.Facts():
            return _facts(block.facts)
        case doc.Plot():
            return plot(block)
        case doc.Timeline():
            return timeline(block)
        case doc.Pictures():
            pictures = "".join(_picture(png, caption) for png, caption in block.pictures)
            return f'<div class="figures{" wide" if block.wide else ""}">{pictures}</div>'


def _facts(facts: Sequence[tuple[str, str]], kind: str = "") -> str:
    items = "".join(
        f"<dt>{escaped(name)}</dt><dd><code>{escaped(value)}</code></dd>" for name, value in facts
    )
    return f'<dl class="{kind}">{items}</dl>' if items else ""


def _picture(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{escaped(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
    )


def _table(table: doc.Table[Any]) -> str:
    if not table.entries:
        return ""
    filled = table.filled()
    head = "".join(_head(column) for column, _ in filled)
    rows = (
        "".join(_cell(column, cells[number]) for column, cells in filled)
        for number in range(len(table.entries))
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    more = any(column.shown != "always" for column, _ in filled)
    button = '<button type="button" class="more" aria-expanded="false">all columns</button>' if more else ""
    text = (
        f'{_legend(filled)}<div class="table"><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{button}</div>"
    )
    return f"<details><summary>{escaped(table.folded)}</summary>{text}</details>" if table.folded else text


def _legend(filled: Sequence[tuple[doc.Column[Any], Sequence[doc.Cell]]]) -> str:
    """What the colours of stacks mean."""
    orders = {
        cell.drawing.order for _, cells in filled for cell in cells if isinstance(cell.drawing, doc.Stack)
    }
    marks = (
        f'<span class="key">{swatch(name, order)}{escaped(name)}</span>' for order in orders for name in order
    )
    return f'<p class="dim">{" ".join(marks)}</p>' if orders else ""


def _class(column: doc.Column[Any], tone: str = "") -> str:
    """Numbers stand right; on a phone a table begins with the columns that are always shown."""
    return " ".join(
        name
        for name in ("n" if column.form else "", "" if column.shown == "always" else "wide", tone)
        if name
    )


def _head(column: doc.Column[Any]) -> str:
    of = f"<small>{escaped(column.of)}</small>" if column.of else ""
    return f'<th scope="col" class="{_class(column)}"><button type="button">{escaped(column.name)}</button>{of}</th>'


def _cell(column: doc.Column[Any], cell: doc.Cell) -> str:
    order: object = cell.text if cell.order is None else cell.order
    if isinstance(order, float) and math.isinf(order):
        order = math.copysign(1e308, order)
    text = escaped(cell.text)
    if len(cell.text) >= LONG_TEXT and not column.form:
        words = (doc.breakable(word) for word in cell.text.split(" "))
        text = " ".join("<wbr>".join(map(escaped, parts)) for parts in words)
    drawing = "" if cell.drawing is None else drawn(cell.drawing)
    return f'<td class="{_class(column, cell.tone)}" data-v="{escaped(order)}">{text}{drawing}</td>'
