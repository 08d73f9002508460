"""ONNX Runtime tells nobody anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

RUN = """
import logging, os, sys
logging.basicConfig(format="%(message)s")
{before}
import onnx
from gmos_deploy.runtime.onnx.sessions import OnnxDevice, SessionOptions, load_onnxruntime, open_session
one = onnx.helper.make_tensor_value_info("x", 1, [2])
two = onnx.helper.make_tensor_value_info("y", 1, [2])
graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [one], [two])
opset = [onnx.helper.make_opsetid("", 20)]
model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
module = load_onnxruntime()
load_onnxruntime()
open_session(model.SerializeToString(), OnnxDevice(kind="cpu"), SessionOptions(), module)
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def run(home: Path, before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", RUN.format(before=before)],
        env={**environment, **places, **variables},
        capture_output=True,
        text=True,
        check=True,
    )


def test_nothing_is_written_into_the_users_folders(tmp_path: Path) -> None:
    """Neither into the cache nor elsewhere at home."""
    found = run(tmp_path)
    assert (found.stdout, found.stderr) == ("1\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_imported_it_before_is_told_once(tmp_path: Path) -> None:
    """Only it can help it."""
    found = run(tmp_path, "import onnxruntime; onnxruntime.__version__ = '1.32.0'")
    assert (
        found.stderr.count("imported before gmos-deploy, with its telemetry on; set ORT_DISABLE_TELEMETRY=1")
        == 1
    )
    assert run(tmp_path, "import onnxruntime; onnxruntime.__version__ = '1.28.1'").stderr == ""


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    """Whoever wants it has it."""
    assert run(tmp_path, ORT_DISABLE_TELEMETRY="0").stdout == "0\n"
