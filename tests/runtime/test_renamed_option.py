"""Old names of options."""

from __future__ import annotations

import logging

import click
import pytest
from click.testing import CliRunner

from gmos_deploy.runtime.renamed_option import renamed_option


@click.command()
@click.option("--new_name", "new_name", default="default")
@renamed_option("old_name", "new_name")
def command(new_name: str) -> None:
    click.echo(new_name)


@pytest.mark.parametrize(
    ("arguments", "value", "warned"),
    [
        (["--old_name", "x"], "x", True),
        (["--old-name", "x"], "x", True),
        (["--new_name", "x"], "x", False),
        ([], "default", False),
    ],
)
def test_an_old_name_works_and_says_what_it_is_called_now(
    arguments: list[str], value: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In both spellings; where it is not given nothing is said."""
    with caplog.at_level(logging.WARNING):
        found = CliRunner().invoke(command, arguments)
    assert found.output.strip() == value
    assert ("--old_name is called --new_name now" in caplog.text) == warned


def test_the_help_has_the_new_name_alone() -> None:
    """Whoever reads the help writes the new one."""
    shown = CliRunner().invoke(command, ["--help"]).output
    assert "--new_name" in shown
    assert "--old" not in shown
