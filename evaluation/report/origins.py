"""What a result was made from, as a section of its report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ...runtime.files.made_from import MadeFrom
from .document import Block, Column, Section, Table, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    what: str
    name: str
    sha256: str | None
    licence: str = ""
    source: str = ""
    stride: int | None = None
    fps: float | None = None
    dataset: str | None = None


def _rows(made_from: MadeFrom) -> Iterator[_Row]:
    for bundle in made_from.bundles:
        yield _Row(what="bundle", name=bundle.name, sha256=bundle.sha256)
    for one in made_from.checkpoints:
        yield _Row(what=one.flag, name=one.name, sha256=one.sha256, licence=one.licence, source=one.source)
    for clip in made_from.clips:
        yield _Row(what="clip", **asdict(clip))


COLUMNS: list[Column[_Row]] = [
    Column("what", lambda row: row.what),
    Column("name", lambda row: row.name),
    Column("stride", lambda row: row.stride, "d", "frames", "room"),
    Column("rate", lambda row: row.fps, ".6g", "frames/s", "room"),
    Column("dataset", lambda row: row.dataset, shown="room"),
    Column("licence", lambda row: row.licence or None),
    Column("source", lambda row: row.source or None, shown="wide"),
    Column("SHA-256", lambda row: row.sha256, shown="wide"),
]


def origins_section(made_from: MadeFrom, *, folded: bool = True) -> Section:
    """Bundles, checkpoints and clips with their hashes and licences; on a terminal strides and rates alone.

    Args:
        made_from: what is known; of nothing there is no section.
        folded: whether the table is to be opened first.
    """
    blocks: list[Block] = [
        Text(
            f"{clip.name}: stride {clip.stride}" + (f", {clip.fps:.6g} fps" if clip.fps else ""),
            everywhere=True,
        )
        for clip in made_from.clips
        if clip.stride is not None and folded
    ]
    table = Table(
        columns=COLUMNS,
        entries=list(_rows(made_from)),
        folded="Bundles, checkpoints and clips, with their hashes" if folded else "",
    )
    return Section("Made from", [*blocks, table] if table.entries else [])
