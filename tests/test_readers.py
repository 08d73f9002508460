"""Files that others wrote are read in one way each: what could start a program, wait or fill a machine stays out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gmos_deploy

ROOT = Path(gmos_deploy.__file__).parent
PACKAGES = ("calibration", "commands", "evaluation", "export", "gmos_ref", "runtime")

OWN_JSON = {
    "runtime/onnx/trace.py",  # what ONNX Runtime has just written into a folder of ours
    "runtime/tensorrt/layers.py",  # what TensorRT says of an engine that runs
    "evaluation/child_process.py",  # what a child of ours has just written
}
ARRAYS = {
    "runtime/files/array_files.py",
    "evaluation/doctor/selftest.py",  # the package's own
}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """File, name and call of everything that product code calls."""
    for file in [
        *ROOT.glob("*.py"),
        *(found for package in PACKAGES for found in (ROOT / package).rglob("*.py")),
    ]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield str(file.relative_to(ROOT)), ast.unparse(node.func), node


def places(*names: str) -> set[str]:
    return {file for file, name, _ in calls() if name in names}


def test_json_is_read_by_one_reader() -> None:
    """With bounds. What this process wrote itself is no file of others'."""
    found = {
        file
        for file, name, call in calls()
        if name in ("json.load", "json.loads") and "json.dumps" not in ast.unparse(call)
    }
    assert found == OWN_JSON
    decoded = {
        file
        for file, name, call in calls()
        if name.startswith(("msgspec.json.decode", "msgspec.json.Decoder"))
        and "encode" not in ast.unparse(call)
    }
    assert decoded == {"runtime/files/typed_json.py"}


def test_arrays_are_read_by_one_reader() -> None:
    """Whatever NumPy raises on a file that is none of its own."""
    assert places("np.load", "numpy.load") == ARRAYS


def test_images_are_opened_as_the_formats_that_are_meant() -> None:
    """Others may start a program, as EPS does."""
    opened = [call for _, name, call in calls() if name.endswith("Image.open")]
    assert len(opened) >= 3
    assert all("formats" in {keyword.arg for keyword in call.keywords} for call in opened)


def test_checkpoints_are_loaded_without_running_them() -> None:
    """In one place."""
    loaded = [
        (file, ast.unparse(call)) for file, name, call in calls() if name in ("torch.load", "pickle.load")
    ]
    assert [file for file, _ in loaded] == ["gmos_ref/checkpoints/reading.py"]
    assert "weights_only=True" in loaded[0][1]


@pytest.mark.parametrize("name", ["pickle.loads", "eval", "exec", "os.system", "yaml.load", "marshal.loads"])
def test_nothing_that_runs_what_it_reads(name: str) -> None:
    """None of these anywhere."""
    assert not places(name)
