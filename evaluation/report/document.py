"""A report as data, whatever shows it: sections of text, tables, plots and pictures.

`terminal` shows a document on a terminal, `html_page` as a page; `files` writes the values behind it.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

Entry = TypeVar("Entry")

MISSING = "–"
"""In place of a value that is not known."""

Tone = Literal["", "good", "bad", "dim"]

Shown = Literal["always", "room", "wide", "page"]
"""Where a column is: everywhere; where there is room for it; not in a narrow table; on the page alone."""

Kind = Literal["ahead", "wait", "work", "network"]
"""What a row of a timeline is of, which is its colour."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a share, 0 to 1; `label` says it in words."""

    share: float
    label: str
    good: bool = True


@dataclass(frozen=True, slots=True)
class Strip:
    """Samples as ticks on an axis from 0 to the longest sample of the table."""

    samples: tuple[float, ...]
    longest: float


@dataclass(frozen=True, slots=True)
class Spark:
    """Values from 0 to 1 from left to right; gaps where there is none."""

    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """Shares beside each other; `order` gives a name its colour."""

    shares: tuple[tuple[str, float], ...]
    order: tuple[str, ...]


Drawing: TypeAlias = Bar | Strip | Spark | Stack


@dataclass(frozen=True, slots=True)
class Cell:
    """What a table shows where a plain value is not enough; it sorts by `order`, or by its text."""

    text: str
    order: float | None = None
    tone: Tone = ""
    drawing: Drawing | None = None

    def tells(self) -> bool:
        """Whether anything is known."""
        return self.drawing is not None or self.text not in ("", MISSING)


Value: TypeAlias = Cell | str | float | None


@dataclass(frozen=True, slots=True)
class Column(Generic[Entry]):
    """A column: its name with the unit, what it shows of an entry, and how.

    `form` is the format of its numbers; text has none and stands left. `of` is the second line of the head: what the
    values are of, such as `median of 10 rounds`.
    """

    name: str
    get: Callable[[Entry], Value]
    form: str = ""
    of: str = ""
    shown: Shown = "always"

    def cell(self, entry: Entry) -> Cell:
        """What it shows of an entry."""
        value = self.get(entry)
        if isinstance(value, Cell):
            return value
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return Cell(MISSING, -1.0)
        if isinstance(value, str):
            return Cell(value)
        return Cell(f"{value:{self.form}}", float(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[Entry]):
    """Entries as rows. The first column names them and stays in view; `folded` is the line that opens the table.

    A folded table is on the page, and on a terminal where everything is asked for.
    """

    columns: Sequence[Column[Entry]]
    entries: Sequence[Entry]
    folded: str = ""

    def filled(self) -> list[tuple[Column[Entry], list[Cell]]]:
        """The columns with their cells, without those in which nothing is known."""
        found = [(column, [column.cell(entry) for entry in self.entries]) for column in self.columns]
        return [(column, cells) for column, cells in found if any(map(Cell.tells, cells))]


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph that explains; `everywhere` or on the page alone."""

    text: str
    everywhere: bool = False


@dataclass(frozen=True, slots=True)
class Remarks:
    """Lines that a reader must not miss, each after `word` on a terminal."""

    lines: Sequence[str]
    word: str = ""
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what they are."""

    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Points, each with its words; `joined` by a line, with a `limit` to hold them against.

    `line` joins other places, such as those points that nothing beats. The axis begins at 0, or just below the least
    value where `near_one` says that values are.
    """

    points: Sequence[tuple[float, float, str]]
    across: str
    up: str
    caption: str
    joined: bool = True
    near_one: bool = False
    limit: float | None = None
    line: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineRow:
    """What was done when, in seconds."""

    label: str
    kind: Kind
    intervals: Sequence[Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Rows over time, with named bands behind them."""

    rows: Sequence[TimelineRow]
    bands: Sequence[tuple[str, Interval]]
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """PNGs with their captions; `wide` has one a line."""

    pictures: Sequence[tuple[bytes, str]]
    wide: bool = False


Block: TypeAlias = Table[Any] | Text | Remarks | Facts | Plot | Timeline | Pictures


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a title; `where` says what shows them."""

    title: str
    blocks: Sequence[Block]
    where: Literal["everywhere", "page", "terminal"] = "everywhere"


@dataclass(frozen=True, slots=True)
class Card:
    """A number that sums up, what it is, and a few words on it."""

    title: str
    value: str
    words: str = ""
    tone: Tone = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A report.

    `sides` are what was compared, by letter. `verdict` ends it on a terminal, after `remarks`; on the page both are
    above the sections. `environment` is where it was made, on the page alone.
    """

    title: str
    sections: Sequence[Section]
    lead: str = ""
    sides: Mapping[str, str] = field(default_factory=dict)
    cards: Sequence[Card] = ()
    remarks: Section | None = None
    verdict: Card | None = None
    environment: Mapping[str, Any] | None = None


def facts_of(values: Mapping[str, Any]) -> Facts:
    """Names and values in words, without those that are not known."""
    return Facts(
        [
            (name.replace("_", " "), _words(value))
            for name, value in values.items()
            if value not in (None, [], {})
        ]
    )


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def lettered(sides: Sequence[str]) -> dict[str, str]:
    """The letter of each side, from A on."""
    return {side: string.ascii_uppercase[number % 26] for number, side in enumerate(sides)}


def breakable(word: str) -> list[str]:
    """The parts of a long word between which a line may end: after a slash, a dot and other signs, not in numbers.

    A SHA-256 has four parts.
    """
    if re.fullmatch("[0-9a-f]{64}", word):
        return [word[start : start + 16] for start in range(0, 64, 16)]
    return re.split(r"(?<=[/.,:_-])(?=\D)", word)
