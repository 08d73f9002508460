"""docs/trtexec.md: its options exist, its shapes are those of nano's bundle, and Polygraphy's lines run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import gmos_deploy
from gmos_deploy.commands.calibrate import calibrate_command
from gmos_deploy.commands.export import export_command
from gmos_deploy.commands.parity import parity_command
from gmos_deploy.commands.profile import profile_command
from gmos_deploy.commands.run import run_command
from gmos_deploy.gmos_ref.reference_config import FOLDER, PACKED_BUNDLES
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.bundle.packed_bundle import unpack_bundle

TEXT = (Path(gmos_deploy.__file__).parent / "docs" / "trtexec.md").read_text(encoding="utf-8")

COMMANDS: dict[str, click.Command] = {
    "gmos-run": run_command,
    "gmos-profile": profile_command,
    "gmos-export calibrate": calibrate_command,
    **{f"gmos-export {name}": command for name, command in export_command.commands.items()},
    **{f"gmos-parity {name}": command for name, command in parity_command.commands.items()},
}


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle that comes with the package, where the lines expect it."""
    root = tmp_path_factory.mktemp("lines") / "gmos-nano"
    return unpack_bundle(PACKED_BUNDLES, "gmos", FOLDER, root)


def lines(program: str) -> list[list[str]]:
    """What is typed of a program, in words."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in blocks.splitlines() if line.startswith(program)]


def test_every_option_of_the_tables_exists() -> None:
    """In the command that its row names."""
    rows = re.findall(r"^\| .* \| `(gmos-[\w -]+)` \| (.*) \|$", TEXT, re.MULTILINE)
    assert len(rows) > 20
    seen = 0
    for command, cell in rows:
        known = {spelled for parameter in COMMANDS[command].params for spelled in parameter.opts}
        for spelled in re.findall(r"--[\w-]+", cell):
            assert spelled in known, f"{command} {spelled}"
            seen += 1
    assert seen > 20


def given_shapes(bundle: Bundle, words: list[str]) -> Iterator[tuple[str, int, dict[str, list[int]]]]:
    """Network, place in a profile (0 least, 1 usual, 2 greatest), and lengths by the names of inputs."""
    values = dict(word.lstrip("-").partition("=")[::2] for word in words)
    network = Path(values["onnx"]).stem
    assert (bundle.root.parent / values["onnx"]).is_file()
    for place, option in enumerate(("minShapes", "optShapes", "maxShapes")):
        pairs = [pair.split(":") for pair in values[option].split(",")]
        yield network, place, {name: [int(length) for length in dims.split("x")] for name, dims in pairs}


def test_the_shapes_are_the_bundle_s(nano: Bundle) -> None:
    """Every input with an axis that varies, at the lengths of the first shape profile."""
    checked = 0
    for words in lines("trtexec"):
        for network, place, shapes in given_shapes(nano, words):
            entry = nano.networks[network]  # type: ignore[index]
            tensors = [*entry.inputs, *entry.graphs["standard"].tables]
            profile = entry.profiles[0]
            expected = {
                tensor.name: [axis if isinstance(axis, int) else profile[axis][place] for axis in tensor.axes]
                for tensor in tensors
                if any(isinstance(axis, str) for axis in tensor.axes)
            }
            assert shapes == expected
            checked += 1
    assert checked == 6


def test_the_lines_of_polygraphy(nano: Bundle) -> None:
    """Each runs in the bundle's folder, on ONNX Runtime."""
    pytest.importorskip("polygraphy")
    program = Path(sys.executable).with_name("polygraphy")
    typed = lines("polygraphy")
    assert [words[0] for words in typed] == ["inspect", "run"]
    printed = []
    for words in typed:
        ran = subprocess.run(
            [program, *words], cwd=nano.root.parent, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        printed.append(ran.stdout)
    assert "frames [dtype=uint8, shape=('B', 3, 'Hp', 'Wp')]" in printed[0]
    assert "position [dtype=float32, shape=('h', 'w', 128)]" in printed[0]
    assert "PASSED" in printed[1]
