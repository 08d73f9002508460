"""`gmos-report` behind its options: read results, write their page, show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ...errors import GmosError
from ...runtime.files.atomic_file import replaced_at_end
from ..report.html_page import write_page
from ..report.table_formats import markdown
from ..report.terminal import show
from .document import summary_document
from .saved import read_saved

HTML, MARKDOWN = (".html", ".htm"), ".md"


def write_summary(out: Path, results: Sequence[Path], *, title: str, wide: bool) -> None:
    """Write the page of results, as HTML or Markdown by its name, and show it.

    Raises:
        GmosError: a file is no result, or the page cannot be written there.
    """
    if out.suffix.lower() not in (*HTML, MARKDOWN):
        raise GmosError(
            f"{out}: expected the page first, OUT.html or OUT.md, and then the results that it is made of"
        )
    document = summary_document([read_saved(path) for path in dict.fromkeys(results)], title)
    if out.suffix.lower() == MARKDOWN:
        with replaced_at_end(out) as temporary:
            temporary.write_text(markdown(document), encoding="utf-8", errors="backslashreplace")
    else:
        write_page(out, document)
    show(document, wide=wide)
    click.echo(f"report: {out}")
