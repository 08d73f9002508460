"""The programs behind the documents' figures on engines."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gmos_deploy.runtime.bundle.manifest import Bundle

pytest.importorskip("tensorrt_rtx")

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def edge_memory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The memory table's program as a module; as a program it finds its neighbours the same way."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("edge_memory")


def test_edge_shapes_are_those_of_one_window(edge_memory: ModuleType, tiny_bundle: Bundle) -> None:
    """Every input that varies, in the command's spelling; least lengths where a run may have less."""
    lengths = {"B": 1, "O": 4, "R": 7, "P": 16, "H": 1080, "W": 1920, "h": 8, "w": 12, "Hp": 112, "Wp": 168}
    texts = edge_memory.shape_texts(tiny_bundle, "dino", lengths, "max")
    assert texts == ["dino.frames=1x3x112x168"]
    texts = edge_memory.shape_texts(tiny_bundle, "memory_attention", lengths, "min")
    assert texts[0] == "memory_attention.memories=1x1x32x8x8"
    assert "memory_attention.pointers=1x0x64" in texts
    texts = edge_memory.shape_texts(tiny_bundle, "proposal_labels", lengths, "max")
    assert texts == ["proposal_labels.mask_logits=1x20x32x32", "proposal_labels.video_hw=1080x1920"]


def test_edge_needs_are_read_from_the_profile_that_was_asked_for(edge_memory: ModuleType) -> None:
    """Outputs follow the grid of the tables; the other profile's memory does not count."""

    def profile(h: int, w: int) -> dict[str, object]:
        shapes = {"frames": [1, 3, 14 * h, 14 * w], "position": [h, w, 64]}
        return {name: {"min": shape, "opt": shape, "max": shape} for name, shape in shapes.items()}

    record = {
        "network": "dino",
        "profiles": [profile(5, 5), profile(8, 12)],
        "activation_bytes": [10, 20],
        "weight_bytes": 7,
        "tensors": [
            {"name": "frames", "dtype": "uint8", "shape": [-1, 3, -1, -1], "mode": "input", "host": False},
            {
                "name": "tokens",
                "dtype": "float16",
                "shape": [-1, -1, -1, 64],
                "mode": "output",
                "host": False,
            },
        ],
    }
    need = edge_memory.need_of(record, ["dino.frames=1x3x112x168"], 1)
    assert (need.weights, need.activations) == (7, 20)
    assert need.arrays == 3 * 112 * 168 + 2 * 8 * 12 * 64
    assert edge_memory.verdict(5 << 30, 8) == "no"
    assert edge_memory.verdict(1 << 30, 8) == "3533 left"


def test_builds_are_measured(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A row per network and the same as JSON; options after -- reach the build."""
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    out = tmp_path / "out.json"
    command = [
        sys.executable,
        str(BENCHMARKS / "engines.py"),
        "--bundle",
        str(root),
        "--backend",
        "tensorrt-rtx",
    ]
    command += ["--target", "sm86", "--networks", "tracked_labels,sam2_resize", "--out", str(out)]
    done = subprocess.run([*command, "--", "--opt-level", "1"], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["tracked_labels", "sam2_resize", "total"]
    found = json.loads(out.read_text())
    assert found["tracked_labels"]["options"]["opt_level"] == 1
    assert found["tracked_labels"]["peak_bytes"] > found["tracked_labels"]["plan_bytes"] > 0
