"""Kinds of options that several commands share."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from gmos_deploy.options import FiniteRange


@pytest.mark.parametrize("given", ["nan", "-nan", "inf"])
def test_a_limit_is_a_finite_number(given: str) -> None:
    """Nothing is less than NaN, or more: as a limit it would hold for everything."""

    @click.command()
    @click.option("--limit", type=FiniteRange(0))
    def command(limit: float) -> None:
        click.echo(limit)

    found = CliRunner().invoke(command, [f"--limit={given}"])
    assert found.exit_code == 2
    assert f"{float(given)} is no finite number" in found.output
    assert CliRunner().invoke(command, ["--limit=0.5"]).output == "0.5\n"
