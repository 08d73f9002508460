"""--version of every program, the commit behind it, and completion in a shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gmos_deploy
from gmos_deploy.evaluation.doctor.machine import machine_findings
from gmos_deploy.evaluation.report import software as told

ROOT = Path(gmos_deploy.__file__).parent


def programs() -> dict[str, str]:
    """What is installed, with the name of its entry point in `gmos_deploy.cli`."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return dict(re.findall(r'^(gmos-\w+) = "gmos_deploy\.entry:(\w+)"$', text, re.MULTILINE))


def call(program: str, *words: str, **environment: str) -> str:
    """What a program prints."""
    entry = programs()[program]
    code = f"from gmos_deploy.entry import {entry}; {entry}()"
    ran = subprocess.run(
        [sys.executable, "-c", code, *words],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return ran.stdout


@pytest.mark.parametrize("program", sorted(programs()))
def test_every_program_tells_its_version(program: str) -> None:
    """And the commit of this checkout, where it is one."""
    assert call(program, "--version") == f"{program} {told.software()}\n"
    assert "--version" in call(program, "--help")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    (tmp_path / "file").write_text("one")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--no-verify", "-m", "one"], check=True)
    return tmp_path


def test_the_commit_of_a_checkout(checkout: Path) -> None:
    """Twelve digits, and a word where files were changed; a folder within it is no checkout of this project."""
    clean = told.commit(checkout)
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (checkout / "file").write_text("two")
    assert told.commit(checkout) == f"{clean}-dirty"
    (checkout / "lib").mkdir()
    assert told.commit(checkout / "lib") is None


def test_what_was_built_has_a_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed packages are no checkouts; gmos-doctor tells what they tell."""
    assert told.commit(tmp_path) is None
    (tmp_path / told.STAMP).write_text("0123456789ab\n", encoding="utf-8")
    assert told.commit(tmp_path) == "0123456789ab"
    monkeypatch.setattr(told, "commit", lambda: "0123456789ab")
    first = next(iter(machine_findings(None)))
    assert (first.name, first.found) == ("gmos-deploy", f"{gmos_deploy.__version__} (commit 0123456789ab)")


@pytest.mark.parametrize(
    ("program", "typed", "offered"),
    [
        ("gmos-run", "gmos-run --save_m", ["plain,--save_mode"]),
        ("gmos-run", "gmos-run --precision fp", ["plain,fp32", "plain,fp16", "plain,fp8"]),
        ("gmos-parity", "gmos-parity vi", ["plain,video"]),
        ("gmos-export", "gmos-export cal", ["plain,calibrate"]),
        ("gmos-doctor", "gmos-doctor --self", ["plain,--selftest"]),
    ],
)
def test_shells_complete(program: str, typed: str, offered: list[str]) -> None:
    """Options, their values and sub-commands, as click's script for bash asks for them."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), variable: "bash_complete"}
    assert call(program, **words).splitlines() == offered


def test_the_line_for_completion(tmp_path: Path) -> None:
    """The README's line writes a function for every program; bash reads it."""
    bash = shutil.which("bash")
    if bash is None or sys.platform == "win32":
        pytest.skip("bash is not installed")
    (line,) = re.findall(
        r"^for name in .*_COMPLETE=.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for program, entry in programs().items():
        script = f"#!{sys.executable}\nfrom gmos_deploy.entry import {entry}\n{entry}()\n"
        (binaries / program).write_text(script, encoding="utf-8")
        (binaries / program).chmod(0o755)
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{binaries}:{os.environ['PATH']}"}
    subprocess.run([bash, "-c", line], check=True, env=environment)
    ran = subprocess.run(
        [bash, "-c", "source ~/.bashrc && complete -p"],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert {row.split()[-1] for row in ran.stdout.splitlines()} >= set(programs())
