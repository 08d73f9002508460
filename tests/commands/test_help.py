"""--help of every command: quick, in groups, and every option explained."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from gmos_deploy.commands.calibrate import calibrate_command
from gmos_deploy.commands.doctor import doctor_command
from gmos_deploy.commands.evaluate import evaluate_command
from gmos_deploy.commands.export import export_command
from gmos_deploy.commands.parity import parity_command
from gmos_deploy.commands.profile import profile_command
from gmos_deploy.commands.report import report_command
from gmos_deploy.commands.run import run_command
from gmos_deploy.commands.tune import tune_command
from gmos_deploy.options import OTHER, GroupedCommand, GroupedOption, flag, option

HELP_LIMIT_S = 0.3
"""Of the processor, not by the clock: a busy machine does not decide."""

ENTRY_POINTS = {
    "gmos-run": ("run", run_command),
    "gmos-export": ("export", export_command),
    "gmos-export calibrate": ("export", calibrate_command),
    "gmos-export tune": ("export", tune_command),
    "gmos-eval": ("evaluate", evaluate_command),
    "gmos-parity": ("parity", parity_command),
    "gmos-profile": ("profile", profile_command),
    "gmos-report": ("report", report_command),
    "gmos-doctor": ("doctor", doctor_command),
}

MEASURE = """
import json, os, sys
from gmos_deploy.entry import {entry}
try:
    {entry}()
finally:
    times = os.times()
    print(json.dumps([times.user + times.system, sorted(sys.modules)]), file=sys.stderr)
"""


def leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command, or those of a group."""
    if isinstance(command, click.Group):
        for inner, one in command.commands.items():
            yield f"{name} {inner}", one
    else:
        yield name, command


COMMANDS = {
    name: (entry, command)
    for outer, (entry, given) in ENTRY_POINTS.items()
    for name, command in leaves(outer, given)
}


@pytest.mark.parametrize("name", sorted({**ENTRY_POINTS, **COMMANDS}))
def test_help_is_quick(name: str) -> None:
    """It imports nothing that does the work; best of three."""
    entry = {**ENTRY_POINTS, **COMMANDS}[name][0]
    seconds = []
    for _ in range(3):
        shown = subprocess.run(
            [sys.executable, "-c", MEASURE.format(entry=entry), *name.split()[1:], "--help"],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "80"},
        )
        assert f"Usage: {name}" in shown.stdout
        taken, modules = json.loads(shown.stderr.splitlines()[-1])
        assert not {"numpy", "torch", "onnxruntime", "rich", "av", "scipy"} & set(modules)
        seconds.append(taken)
        if taken < HELP_LIMIT_S:
            break
    assert min(seconds) < HELP_LIMIT_S


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_explained(name: str) -> None:
    """Each has a help text, a group and both spellings; one with a value has a default, or must be given."""
    command = COMMANDS[name][1]
    assert isinstance(command, GroupedCommand)
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or parameter.name == "version":
            continue
        assert isinstance(parameter, GroupedOption)
        assert parameter.group != OTHER, parameter.name
        text = parameter.help or ""
        assert text.endswith((".", "]")), parameter.name
        if any("_" in spelled for spelled in parameter.opts):
            assert any("-" in spelled[2:] for spelled in parameter.opts), parameter.opts


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_groups_stay_together(name: str) -> None:
    """Help shows them as they are declared: a group's options follow each other."""
    groups = [
        parameter.group for parameter in COMMANDS[name][1].params if isinstance(parameter, GroupedOption)
    ]
    changes = [group for place, group in enumerate(groups) if place == 0 or groups[place - 1] != group]
    assert len(changes) == len(set(changes)), changes


def test_the_groups_of_gmos_run() -> None:
    """The usual ones first, and lines that fit 80 columns."""
    with click.Context(run_command, info_name="gmos-run", terminal_width=80) as context:
        text = run_command.get_help(context)
    sections = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert sections == [
        "Input",
        "Results",
        "Networks",
        "Speed and memory",
        "Less computation",
        "Tracking",
        "Live",
        "Other",
    ]
    assert max(map(len, text.splitlines())) <= 80
    assert "--save_dir DIR" in text
    assert "as in --save-dir" in text


@pytest.mark.parametrize("spelled", ["--old_name", "--old-name"])
def test_an_old_name_works_with_a_warning(
    spelled: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """In both spellings, with its value; the help shows the new one alone."""

    @click.command(cls=GroupedCommand)
    @option("new_name", group="Input", old=("old_name",), help="A value.")
    @flag("plain", group="Input", old=("was",), help="A flag.")
    def command(new_name: str, plain: bool) -> None:
        click.echo(f"{new_name} {plain}")

    with caplog.at_level(logging.WARNING):
        command.main([spelled, "a", f"{spelled}=b", "--was"], standalone_mode=False)
    assert capsys.readouterr().out == "b True\n"
    assert caplog.messages[0] == f"{spelled} is now --new_name; the old name goes with the next release"
    with click.Context(command) as context:
        assert "old" not in command.get_help(context)


@pytest.mark.parametrize("words", [["networks", "--profile", "fp16"], ["masks", "--profile=fp16"]])
def test_limits_were_called_profile(words: list[str]) -> None:
    """gmos-parity's limits are no longer called a profile."""
    command = parity_command.commands[words[0]]
    context = command.make_context(words[0], [*words[1:], "x"], resilient_parsing=True)
    assert context.params["limits"] == "fp16"
