"""What an error ends with: a machine that may lack something is sent to gmos-doctor."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.errors import GmosError

CRASH = """
import click, sys
from gmos_deploy.cli import start
@click.command()
def command():
    raise RuntimeError("cudaMemcpyAsync failed (CUDA error 1, invalid argument)")
sys.argv = ["x"]
start(command, {name!r})
"""


@pytest.mark.parametrize(
    ("message", "advised"),
    [
        ("no usable CUDA device 0 (NVIDIA's driver is not installed); install it", True),
        ("cuda:0 is out of memory in dino: lower --batch_size", True),
        ("TensorRT 9.0 is installed, expected 10.3; pip install 'gmos-deploy[gpu]'", True),
        ("b has no TensorRT engines; build them: gmos-export build-engines --bundle b", False),
        ("clip.mp4 does not exist", False),
    ],
)
def test_errors_about_the_gpu_name_the_doctor(
    message: str, advised: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the same line; where the next command is known, that is enough."""

    @click.command()
    def command() -> None:
        raise GmosError(message)

    assert guarded(command, "gmos-run", []) == 2
    end = "; what this machine lacks: run gmos-doctor" if advised else ""
    assert capsys.readouterr().err == f"gmos-run: {message}{end}\n"
    assert guarded(command, "gmos-doctor", []) == 2
    assert capsys.readouterr().err == f"gmos-doctor: {message}\n"


@pytest.mark.parametrize(("name", "end"), [("gmos-run", "run gmos-doctor"), ("gmos-doctor", "report it")])
def test_a_traceback_ends_with_what_to_do(name: str, end: str) -> None:
    """As does whatever nobody expected, wherever it was raised."""
    ran = subprocess.run(
        [sys.executable, "-c", CRASH.format(name=name)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
    last = ran.stderr.splitlines()[-1]
    assert last.startswith(f"{name}: this was not expected")
    assert last.endswith(end)
