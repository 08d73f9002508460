"""What may import what, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gmos_deploy

ROOT = Path(gmos_deploy.__file__).parent
PACKAGES = ("gmos_ref", "export", "runtime", "calibration", "evaluation")
ALLOWED = {
    "runtime": set(),
    "gmos_ref": {"runtime"},
    "export": {"gmos_ref", "runtime"},
    "calibration": {"evaluation", "export", "gmos_ref", "runtime"},
    "evaluation": {"gmos_ref", "runtime"},
}
"""Packages that each package may import, besides itself and `errors`."""

HELP_LIMIT_S = 0.5

BLOCKED_RUNTIME_IMPORT = """
import importlib, pkgutil, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "sam2", "onnx", "safetensors", "hydra"}:
            raise ImportError(name + " must not be imported by the runtime")
        if name.startswith("gmos_deploy.") and name.split(".")[1] in {
            "gmos_ref", "export", "calibration", "evaluation"
        }:
            raise ImportError(name + " must not be imported by the runtime")
sys.meta_path.insert(0, Blocker())
import gmos_deploy.runtime
for module in pkgutil.iter_modules(gmos_deploy.runtime.__path__):
    if not module.name.startswith("onnx_"):
        importlib.import_module("gmos_deploy.runtime." + module.name)
print("imported", len(sys.modules))
"""


def imported_packages(file: Path) -> set[str]:
    """Packages of this project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == 2:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gmos_deploy."):
            found.add(node.module.split(".")[1])
    return found & set(PACKAGES)


@pytest.mark.parametrize("package", [name for name in PACKAGES if (ROOT / name).is_dir()])
def test_imports_point_one_way(package: str) -> None:
    """No file imports a package above its own."""
    for file in sorted((ROOT / package).rglob("*.py")):
        above = imported_packages(file) - ALLOWED[package] - {package}
        assert not above, f"{file.relative_to(ROOT)} imports {sorted(above)}"


def test_the_runtime_imports_without_pytorch() -> None:
    """Every runtime module, in a process where torch, sam2, onnx and the packages above cannot load."""
    found = subprocess.run(
        [sys.executable, "-c", BLOCKED_RUNTIME_IMPORT], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "imported" in found.stdout


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("gmos_deploy", {"numpy", "click"}),
        ("gmos_deploy.cli", {"numpy", "torch", "av", "rich", "onnxruntime", "scipy"}),
        ("gmos_deploy.run_command", {"torch", "sam2", "onnxruntime", "tensorrt"}),
    ],
)
def test_importing_loads_nothing_heavy(module: str, heavy: set[str]) -> None:
    """Heavy packages are imported where they are used."""
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(found.stdout.split())


def test_help_is_quick() -> None:
    """Best of three, so that a busy machine does not decide."""
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", "from gmos_deploy.cli import run; run()", "--help"],
            check=True,
            capture_output=True,
        )
        seconds.append(time.monotonic() - start)
    assert min(seconds) < HELP_LIMIT_S


def test_importing_the_reference_changes_no_global_state() -> None:
    """No CUDA start, no torch flags, no environment."""
    pytest.importorskip("torch")
    code = """
import os, torch
before = dict(os.environ), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
import gmos_deploy.gmos_ref.loading
after = dict(os.environ), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
assert before == after, (before, after)
assert not torch.cuda.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
