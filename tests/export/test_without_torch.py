"""A bundle on a device: an environment with what the runtime requires and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmos_deploy.networks import NetworkChoice
from gmos_deploy.run import run_all
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer

TOOL = Path(__file__).parents[2] / "tools" / "device_environment.py"

GMOS_RUN = "from gmos_deploy.entry import run; run()"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with gmos-deploy[cpu] and without the packages that only the reference and export use."""
    root = tmp_path_factory.mktemp("device") / "env"
    made = subprocess.run(
        [sys.executable, TOOL, root, "--extra", "cpu"], check=True, capture_output=True, text=True
    )
    sizes = json.loads(made.stdout)
    assert {"numpy", "pillow", "av", "scipy", "click", "rich", "onnxruntime"} <= sizes.keys()
    return root / "bin" / "python"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A short .mp4 in which a box moves over a texture."""
    texture = np.random.default_rng(0).integers(60, 120, (64, 96, 3), np.uint8)
    with Mp4Writer(tmp_path / "clip.mp4", video_hw=(64, 96), fps=10) as writer:
        for index in range(6):
            frame = texture.copy()
            frame[20:44, 8 + 8 * index : 32 + 8 * index] = (220, 30, 30)
            writer.write(frame, index / 10)
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("package", ["torch", "sam2", "onnx", "onnxscript", "safetensors", "hydra", "sympy"])
def test_device_has_no(device: Path, package: str) -> None:
    """The environment proves something: what must not be needed is not there."""
    needed = [text for text in requires("onnxruntime") or () if "extra ==" not in text]
    if any(text.startswith(package) for text in needed):
        pytest.skip(f"this ONNX Runtime itself requires {package}")
    ran = subprocess.run([device, "-c", f"import {package}"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in ran.stderr


def test_bundle_runs(device: Path, tiny_bundle: Bundle, clip: Path, tmp_path: Path) -> None:
    """`gmos-run --bundle` there gives the label maps that it gives beside PyTorch."""
    command = [device, "-c", GMOS_RUN, clip, "--bundle", tiny_bundle.root, "--stride", "1"]
    ran = subprocess.run(
        [*command, "--save_dir", tmp_path / "device", "--save_mode", "mask"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "ONNX Runtime" in ran.stdout
    run_all(
        networks=NetworkChoice(bundle=tiny_bundle.root, device="cpu"),
        inputs=(clip,),
        save_dir=tmp_path / "here",
        save_mode="mask",
        stride=1,
        quiet=True,
    )
    maps = sorted((tmp_path / "here").glob("*_frame/clip/*.png"))
    assert len(maps) == 12
    for path in maps:
        there = tmp_path / "device" / path.relative_to(tmp_path / "here")
        with Image.open(path) as expected, Image.open(there) as found:
            assert np.array_equal(np.asarray(expected), np.asarray(found))


def test_nano_runs_and_the_doctor_tells(device: Path, tmp_path: Path) -> None:
    """Its bundle comes with the package; what the machine lacks is optional, and nothing is wrong."""
    code = "from gmos_deploy.entry import doctor; doctor()"
    ran = subprocess.run(
        [device, "-c", code, "--selftest", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    found = {(one["group"], one["name"]): one for one in json.loads(ran.stdout)["findings"]}
    assert ran.returncode == 0, [one for one in found.values() if one["state"] == "wrong"]
    assert found["Libraries", "torch"]["state"] == "optional"
    assert found["Libraries", "torch"]["mend"] == "pip install 'gmos-deploy[ref]'"
    assert found["Self-test", "onnxruntime on cpu"]["state"] == "ok"
    assert len(list((tmp_path / "gmos-deploy").iterdir())) == 1, "nano's bundle"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "tiny"], "pip install 'gmos-deploy[ref]'"),
        (["--backend", "torch", "--preset", "tiny"], "pip install 'gmos-deploy[ref]'"),
    ],
)
def test_what_is_missing_is_named(
    device: Path, clip: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    """Asking for the reference there is one line with the command that installs it, and status 2."""
    ran = subprocess.run(
        [device, "-c", GMOS_RUN, clip, "--stride", "1", "--save_dir", tmp_path / "out", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert message in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


def test_export_says_what_it_needs(device: Path, tmp_path: Path) -> None:
    """`gmos-export onnx` there names the extra that it needs."""
    code = "from gmos_deploy.entry import export; export()"
    ran = subprocess.run(
        [device, "-c", code, "onnx", "--preset", "tiny", "--out", tmp_path / "bundle"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "pip install 'gmos-deploy[export]'" in ran.stderr
