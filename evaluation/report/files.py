"""The files of a report, each written whole or not at all: result.json, observations.jsonl and report.html."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click

from ...errors import GmosError
from ...runtime.files.atomic_file import replaced_at_end, writing
from ...runtime.files.typed_json import read_json as read_typeless
from .document import Document
from .html_page import write_page
from .terminal import show

RESULT_FILE, OBSERVATIONS_FILE, PAGE_FILE = "result.json", "observations.jsonl", "report.html"
"""What `--report DIR` writes."""


def plain(value: object, omit: Collection[str] = ()) -> Any:  # noqa: ANN401 - JSON
    """A value as JSON has it: dataclasses and mappings as objects, what is not finite as null.

    Args:
        value: what.
        omit: fields of a dataclass that are left out.
    """
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name not in omit}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(
    directory: Path,
    document: Document,
    result: Mapping[str, Any],
    observations: Iterable[object] | None = None,
) -> None:
    """Write the page, the result, and a line for each observation if there are any.

    Raises:
        GmosError: they cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / RESULT_FILE, result)
    if observations is not None:
        write_json_lines(directory / OBSERVATIONS_FILE, observations)
    write_page(directory / PAGE_FILE, document)


def publish(
    document: Document,
    result: Mapping[str, Any],
    observations: Iterable[object] | None,
    *,
    wide: bool,
    report: Path | None,
) -> None:
    """Show a document on the terminal, `wide` or what fits, and write its report if a directory is given.

    Raises:
        GmosError: the report cannot be written.
    """
    show(document, wide=wide)
    if report is not None:
        write_report(report, document, result, observations)
        click.echo(f"report: {report / PAGE_FILE}")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write values as a JSON document, as `plain` gives them.

    Raises:
        GmosError: the file cannot be written.
    """
    text = json.dumps(plain(document), indent=1, allow_nan=False)
    with replaced_at_end(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_json_lines(path: Path, lines: Iterable[object]) -> None:
    """Write values as `plain` gives them, one a line.

    Raises:
        GmosError: the file cannot be written.
    """
    with replaced_at_end(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(plain(line), ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, schema: str, what: str) -> dict[str, Any]:
    """Read a JSON object of a schema.

    Args:
        path: where it is.
        schema: that it must name.
        what: the file in words, for messages.

    Raises:
        GmosError: it cannot be read, is no JSON, or has another schema.
    """
    try:
        found = read_typeless(path, f"expected {what}")
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); expected {what}") from error
    given = found.get("schema") if isinstance(found, dict) else None
    if given != schema:
        raise GmosError(f"{path} has schema {given!r}, expected {schema!r}; make it again")
    return dict(found)


def report_directory(directory: Path | None, option: str = "--report") -> Path | None:
    """The directory of a report, if there is one and a report can be written there; it need not exist yet.

    Raises:
        GmosError: it is a file, or no files can be made there or in the nearest folder around it that exists.
    """
    if directory is None:
        return None
    if directory.exists() and not directory.is_dir():
        raise GmosError(f"{option} {directory} is a file; expected a directory")
    around = next(place for place in (directory, *directory.absolute().parents) if place.is_dir())
    with writing(directory), TemporaryFile(dir=around):
        pass
    return directory
