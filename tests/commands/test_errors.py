"""What an error ends with: a machine that may lack something is sent to gmos-doctor."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

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
        ("--target sm99: TensorRT-RTX builds for sm86, sm89", False),
        ("--device cuda: this PyTorch (2.13) sees no CUDA device; use --device cpu", True),
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


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gmos-run", "gmos-run: interrupted; what was finished is kept"),
        ("gmos-doctor", "gmos-doctor: interrupted"),
    ],
)
def test_only_what_keeps_results_says_so(name: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """After Ctrl-C."""

    @click.command()
    def command() -> None:
        raise KeyboardInterrupt

    assert guarded(command, name, []) == 130
    assert capsys.readouterr().err.strip() == line


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


PRINTING = """
import click, sys
from gmos_deploy.cli import guarded, print_anything
@click.command()
def command():
    click.echo("街.mp4: 8 frames " + "x" * {size})
print_anything()
sys.exit(guarded(command, "gmos-run", []))
"""


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_names_that_a_terminal_cannot_show_are_escaped(encoding: str) -> None:
    """The work is done by then: a run must not end in an error, nor gmos-parity in status 1."""
    ran = subprocess.run(
        [sys.executable, "-c", PRINTING.format(size=0)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, rb"\u8857.mp4: 8 frames")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("size", [0, 100_000])
def test_output_that_cannot_be_written_is_said(size: int) -> None:
    """Status 2, one line, whether the first write fails or the last."""
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", PRINTING.format(size=size)],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert ran.returncode == 2
    message = (
        "gmos-run: what it says cannot be printed (No space left on device); results that were filed are kept"
    )
    assert ran.stderr.decode() == message + os.linesep


@pytest.mark.parametrize(
    "arguments",
    [
        ["parity", "gmos-parity", "video", "{}", "--a", "torch:tiny", "--b", "torch:tiny"],
        ["parity", "gmos-parity", "networks", "{}", "--a", "torch:tiny", "--b", "torch:tiny"],
        ["profile", "gmos-profile", "{}", "--side", "torch:tiny"],
    ],
    ids=" ".join,
)
def test_addresses_are_named_as_they_were_given(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """By every command that takes videos; a path would have lost one of the slashes."""
    module, name, *given = arguments
    command = getattr(import_module(f"gmos_deploy.commands.{module}"), f"{module}_command")
    address = "https://example.com/a.mp4"
    assert guarded(command, name, [one.format(address) for one in given]) == 2
    assert f"{name}: {address} is an address, and only files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 3 GiB"), RuntimeError("can't start new thread")]
)
def test_no_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """A thread needs some, too; other errors of that kind are not hidden."""

    @click.command()
    def command() -> None:
        raise error

    assert guarded(command, "gmos-test", []) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"gmos-test: there is not enough memory ({error}); close other programs, or raise "
    )
    assert said.count("\n") == 1
    error.args = ("another",)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="another"):
            guarded(command, "gmos-test", [])


@pytest.mark.skipif(sys.platform == "win32", reason="a shell that closes streams")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_not_the_next_files(tmp_path: Path, closed: str) -> None:
    """What libraries print would go into results."""
    code = (
        "import os, sys; from gmos_deploy.entry import hold_streams; hold_streams(); "
        "file = os.open('result', os.O_WRONLY | os.O_CREAT); print('shown'); print('said', file=sys.stderr); "
        "os.write(1, b'of a library'); os.write(2, b'the same'); assert file > 2; os.write(file, b'result')"
    )
    script = f'exec "$0" -c "$1" {closed}'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, code], cwd=tmp_path, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "result").read_bytes() == b"result"
