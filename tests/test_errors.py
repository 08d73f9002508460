"""Text that others wrote, on a terminal and in a table."""

from __future__ import annotations

import csv
import io
import logging

import click
import pytest
from rich.console import Console

from gmos_deploy.cli import LineFormatter, guarded
from gmos_deploy.errors import GmosError, as_cell, printable
from gmos_deploy.evaluation.report.document import Document, Facts, Remarks, Section, Text
from gmos_deploy.evaluation.report.terminal import show

HOSTILE = "key\x1b[31m\x1b]0;title\x07\x9b2J\u202e\x7f"
SHOWN = r"key\x1b[31m\x1b]0;title\x07\x9b2J\u202e\x7f"


def test_controls_are_shown_as_escapes() -> None:
    """Ordinary text stays as it is, in any script."""
    assert printable(HOSTILE) == SHOWN
    assert printable("süß 街.mp4\tx\n") == "süß 街.mp4\tx\n"


def test_errors_and_the_log_show_them_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of files and keys are others' text."""

    @click.command()
    def command() -> None:
        raise GmosError(f"unexpected {HOSTILE}")

    assert guarded(command, "gmos-run", []) == 2
    assert capsys.readouterr().err == f"gmos-run: unexpected {SHOWN}\n"
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s", (HOSTILE,), None)
    assert LineFormatter("gmos-run").format(record) == f"gmos-run: warning: {SHOWN}"


def test_reports_show_them_so() -> None:
    """On the terminal."""
    out = io.StringIO()
    document = Document(
        title=HOSTILE,
        sections=[Section(HOSTILE, [Text(HOSTILE, everywhere=True), Facts([(HOSTILE, HOSTILE)])])],
        remarks=Section("", [Remarks([HOSTILE])]),
    )
    show(document, console=Console(file=out, width=200))
    assert out.getvalue().count(SHOWN) == 6
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_cell_of_a_table_is_a_formula(name: str) -> None:
    """A quote in front keeps spreadsheets from computing it."""
    text = io.StringIO()
    csv.writer(text).writerow([as_cell(name), as_cell("clip=1.mp4")])
    assert next(csv.reader(io.StringIO(text.getvalue(), newline=""))) == [f"'{name}", "clip=1.mp4"]
