"""What may import what, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gmos_deploy

ROOT = Path(gmos_deploy.__file__).parent
PACKAGE = "gmos_deploy"
PRODUCT = ("fleet", "runtime", "gmos_ref", "export", "calibration", "evaluation", "tuning", "commands")
"""Packages of the product; with the modules beside them they are what is shipped."""

RUNTIME = {
    "runtime": set(),
    "runtime.files": set(),
    "runtime.comparison": {"runtime", "runtime.files"},
    "runtime.video": {"runtime", "runtime.files"},
    "runtime.results": {"runtime", "runtime.files"},
    "runtime.bundle": {"runtime", "runtime.files"},
    "runtime.cuda": {"runtime", "runtime.files"},
    # Two rooms of one flat: what is sparse encodes, proposes and stores as the pipeline does.
    "runtime.pipeline": {"runtime", "runtime.files", "runtime.video", "runtime.pipeline.sparse"},
    "runtime.pipeline.sparse": {"runtime", "runtime.pipeline", "runtime.video"},
    "runtime.live.sources": {"runtime", "runtime.files", "runtime.video"},
    "runtime.live": {
        "runtime",
        "runtime.files",
        "runtime.live.sources",
        "runtime.pipeline",
        "runtime.results",
        "runtime.video",
    },
    "runtime.live.threads": {"runtime", "runtime.live", "runtime.live.sources"},
    "runtime.live.preview": {"runtime", "runtime.live", "runtime.results"},
    "runtime.onnx": {"runtime", "runtime.files", "runtime.bundle", "runtime.cuda", "runtime.pipeline"},
    "runtime.tensorrt": {
        "runtime",
        "runtime.files",
        "runtime.bundle",
        "runtime.comparison",
        "runtime.cuda",
        "runtime.onnx",
        "runtime.pipeline",
        "runtime.video",
    },
}
ALLOWED = {
    **RUNTIME,
    "gmos_ref": {"gmos_ref.*", "runtime.*"},
    "export": {"networks", "export.*", "gmos_ref.*", "runtime.*", "evaluation.report"},
    "calibration": {
        "fleet",
        "networks",
        "sides",
        "calibration.*",
        "evaluation.*",
        "export.*",
        "gmos_ref.*",
        "runtime.*",
    },
    "fleet": {"interruption", "networks", "recipes", "runtime.*"},
    "tuning": {"networks", "recipes", "tuning.*", "calibration.search", "evaluation.*", "runtime.*"},
    "evaluation": {"fleet", "interruption", "networks", "sides", "evaluation.*", "gmos_ref.*", "runtime.*"},
    "evaluation.report": {
        "runtime.files",
        "runtime.host_memory",
    },
    "commands": {
        "",
        "fleet",
        "calibration.*",
        "evaluation.*",
        "export.*",
        "gmos_ref.*",
        "runtime.*",
        "tuning.*",
    },
}
"""Rooms that the files of each room may import, besides itself, `errors` and the version; `x.*` is x and all in it.

`networks` and `sides` are the modules at the root among them: what opens networks, for whoever measures them. Commands
know everything, the root ("") too.

A room without a line of its own has that of the package around it.
"""

BLOCKED_RUNTIME_IMPORT = """
import importlib, pkgutil, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "sam2", "onnx", "safetensors", "hydra"}:
            raise ImportError(name + " must not be imported by the runtime")
        if name.startswith("gmos_deploy.") and name.split(".")[1] in {
            "gmos_ref", "export", "calibration", "evaluation", "tuning", "commands"
        }:
            raise ImportError(name + " must not be imported by the runtime")
sys.meta_path.insert(0, Blocker())
import gmos_deploy.runtime
for module in pkgutil.walk_packages(gmos_deploy.runtime.__path__, "gmos_deploy.runtime."):
    importlib.import_module(module.name)
print("imported", len(sys.modules))
"""


WITHOUT_POSIX = """
import importlib, pkgutil, sys
# What others have written brings its own modules for each system.
import av, click, filelock, numpy, PIL.Image, platformdirs, psutil, rich.progress, rich.table
import scipy.ndimage, scipy.optimize
import asyncio, concurrent.futures.process, multiprocessing, subprocess, tempfile
for name in ("fcntl", "resource", "pwd", "grp", "termios", "_posixshmem"):
    sys.modules[name] = None
import os, signal, errno
for module, names in (
    (os, ("sched_getaffinity", "sysconf", "fork", "getuid", "geteuid", "O_CLOEXEC", "getloadavg", "statvfs")),
    (signal, ("SIGKILL", "SIGHUP")),
    (errno, ("EDQUOT",)),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
import gmos_deploy.runtime, gmos_deploy.commands
imported = 0
for package in (gmos_deploy.runtime, gmos_deploy.commands):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        imported += 1
for name in (
    "cli", "run", "networks", "nano_bundle", "evaluation.profile.commands", "evaluation.benchmarks.run",
    "evaluation.compare.mask_commands", "evaluation.report.environment", "evaluation.doctor.command",
):
    importlib.import_module("gmos_deploy." + name)
print("imported", imported)
"""


def module_name(file: Path) -> str:
    """The absolute name of a file's module below the package, with `__init__` for a package's own."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imported_modules(file: Path, text: str | None = None) -> set[str]:
    """Absolute names, below the package, of all modules of this project that a file imports anywhere in it."""
    found = set()
    source = file.read_text(encoding="utf-8") if text is None else text
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                around = module_name(file).split(".")[: -node.level]
                base = [*around, *(node.module.split(".") if node.module else [])]
            elif node.module and node.module.split(".")[0] == PACKAGE:
                base = node.module.split(".")[1:]
            else:
                continue
            for alias in node.names:
                inner = [*base, alias.name]
                found.add(".".join(inner if is_module(inner) else base))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    found.add(".".join(alias.name.split(".")[1:]))
    return found - {""}


def is_module(parts: list[str]) -> bool:
    """Whether there is a module or package of this name."""
    place = ROOT.joinpath(*parts)
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def room_of(module: str) -> str:
    """The package that a module lies in; a package is a room of its own."""
    parts = module.split(".")
    if parts[-1] == "__init__":
        return ".".join(parts[:-1])
    return module if (ROOT.joinpath(*parts) / "__init__.py").is_file() else ".".join(parts[:-1])


def rule_of(room: str) -> set[str]:
    """What a room may import: its own line, else that of the nearest package around it."""
    while room not in ALLOWED:
        room = room.rpartition(".")[0]
    return ALLOWED[room]


def breaches(file: Path, text: str | None = None) -> list[str]:
    """The imports of a file that its room does not allow."""
    own = room_of(module_name(file))
    rule = rule_of(own)

    def allowed(module: str) -> bool:
        room = room_of(module)
        around = [room[:end] + ".*" for end in (*(i for i, c in enumerate(room) if c == "."), len(room))]
        return module == "errors" or module in rule or room in {own, *rule} or any(x in rule for x in around)

    return sorted(module for module in imported_modules(file, text) if not allowed(module))


def product_files() -> list[Path]:
    """All files of the product's packages, found by walking."""
    return [file for package in PRODUCT for file in sorted((ROOT / package).rglob("*.py"))]


def test_networks_knows_the_runtime_alone() -> None:
    """What it opens beyond that, PyTorch's packages among it, it imports where it is opened."""
    tree = ast.parse((ROOT / "networks.py").read_text(encoding="utf-8"))
    top = [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.level]
    assert all(module == "errors" or module.startswith("runtime.") for module in top)


def test_every_package_has_a_rule() -> None:
    """A new package at the top is in the table, or in the list of what is not shipped."""
    found = {file.parent.name for file in ROOT.glob("*/__init__.py")}
    assert found - {"tests"} == set(PRODUCT)


@pytest.mark.parametrize("package", PRODUCT)
def test_imports_point_one_way(package: str) -> None:
    """No file imports a room that is not below its own."""
    found = {module_name(f): breaches(f) for f in product_files() if f.is_relative_to(ROOT / package)}
    assert len(found) > 5
    assert not {name: wrong for name, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    ("room", "line", "breach"),
    [
        ("runtime/video", "from ..results.outputs import file_results", "runtime.results.outputs"),
        ("runtime/video", "from .. import onnx", "runtime.onnx"),
        ("runtime/pipeline", "import gmos_deploy.runtime.tensorrt.backend", "runtime.tensorrt.backend"),
        ("runtime", "from ..export.onnx.validation import Validation", "export.onnx.validation"),
        ("runtime", "from .. import cli", "cli"),
        ("runtime", "from ..networks import NetworkChoice", "networks"),
        ("evaluation/profile", "from ...run import run_all", "run"),
        ("evaluation/profile", "from ...sides import Side", None),
        ("gmos_ref/pi3", "def f():\n    from ...evaluation import compare", "evaluation.compare"),
        ("runtime/bundle", "from ..contract import ModelSpec", None),
        ("calibration/search", "from ...evaluation.report import files", None),
        ("export/onnx", "from ...evaluation.report.document import Table", None),
        ("export/onnx", "from ...evaluation.compare.report import SCHEMA", "evaluation.compare.report"),
        ("evaluation/report", "from ...runtime.files.atomic_file import replaced_at_end", None),
        ("evaluation/report", "from ...runtime.backend import Backend", "runtime.backend"),
    ],
)
def test_an_import_that_points_up_is_found(room: str, line: str, breach: str | None) -> None:
    """Relative at any level, absolute, and inside functions."""
    assert breaches(ROOT / room / "planted.py", line) == ([] if breach is None else [breach])


def test_the_runtime_imports_without_pytorch() -> None:
    """Every runtime module, in a process where torch, sam2, onnx and the packages above cannot load."""
    found = subprocess.run(
        [sys.executable, "-c", BLOCKED_RUNTIME_IMPORT], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "imported" in found.stdout


def test_runtime_and_commands_import_without_posix() -> None:
    """As on Windows: modules and functions that only POSIX systems have are not there."""
    found = subprocess.run([sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout.split()[-1]) > 50


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("gmos_deploy", {"numpy", "click"}),
        ("gmos_deploy.cli", {"numpy", "torch", "av", "rich", "onnxruntime", "scipy"}),
        ("gmos_deploy.networks", {"numpy", "torch", "onnxruntime", "scipy"}),
        ("gmos_deploy.run", {"torch", "sam2", "onnxruntime", "tensorrt"}),
    ],
)
def test_importing_loads_nothing_heavy(module: str, heavy: set[str]) -> None:
    """Heavy packages are imported where they are used."""
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(found.stdout.split())


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
