"""What a resolver takes for the installation lines of the README and docs/tensorrt.md, on machines that they are for.

    pip install uv && python tools/device_routes.py

Nothing is installed: `uv pip compile --python-platform` answers for other machines from the package index. Exit
status 1 where a line cannot be resolved, or takes bindings of a later CUDA than the machine's; 2 without uv.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

SHOWN = (
    "cuda-bindings",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnx-ir",
    "numpy",
    "scipy",
    "tensorrt",
    "tensorrt-rtx-cu13",
)
"""Distributions whose versions are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A line to install, for a machine; `cuda` is the major version that its driver takes."""

    machine: str
    platform: str
    python: str
    line: str
    cuda: int


ROUTES = (
    Route(
        machine="JetPack 6",
        platform="aarch64-manylinux_2_35",
        python="3.10",
        line="pip install '.[cpu]' 'cuda-bindings<13' onnx-ir",
        cuda=12,
    ),
    Route(
        machine="JetPack 7",
        platform="aarch64-manylinux_2_39",
        python="3.12",
        line="pip install '.[cpu]' 'cuda-bindings' onnx-ir",
        cuda=13,
    ),
    *(
        Route(
            machine=f"RTX, {system}",
            platform=platform,
            python=python,
            line="pip install '.[cpu,rtx]' onnx-ir",
            cuda=13,
        )
        for system, platform, python in (
            ("Linux", "x86_64-manylinux_2_35", "3.10"),
            ("Linux", "x86_64-manylinux_2_35", "3.12"),
            ("Windows", "x86_64-pc-windows-msvc", "3.12"),
        )
    ),
    Route(
        machine="NVIDIA GPU, Linux",
        platform="x86_64-manylinux_2_35",
        python="3.12",
        line="pip install '.[gpu]'",
        cuda=13,
    ),
)


def requirements(line: str) -> tuple[list[str], list[str]]:
    """Extras of this package, and the other requirements, of a line of pip."""
    words = [word.strip("'") for word in line.removeprefix("pip install ").split()]
    own = next(word for word in words if word.startswith("."))
    return own[2:-1].split(","), [word for word in words if word != own]


def resolve(route: Route) -> dict[str, str]:
    """Versions by distribution.

    Raises:
        subprocess.CalledProcessError: there is no solution.
    """
    extras, others = requirements(route.line)
    options = [
        "--python-platform",
        route.platform,
        "--python-version",
        route.python,
        "--quiet",
        "--no-annotate",
    ]
    for extra in extras:
        options += ["--extra", extra]
    words = ["uv", "pip", "compile", *options, "pyproject.toml", "-"]
    given = "\n".join(others)
    found = subprocess.run(words, cwd=ROOT, input=given, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^([\w.-]+)==(\S+)", found, re.MULTILINE))


def main() -> int:
    """Resolve and show all; the exit status."""
    status = 0
    for route in ROUTES:
        print(f"{route.machine}, {route.platform}, Python {route.python}: {route.line}")
        try:
            versions = resolve(route)
        except FileNotFoundError:
            print("device_routes.py: uv is not installed; pip install uv", file=sys.stderr)
            return 2
        except subprocess.CalledProcessError as error:
            print(f"    cannot be resolved: {error.stderr.strip()}")
            status = 1
            continue
        print("    " + ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions))
        if int(versions["cuda-bindings"].split(".")[0]) > route.cuda:
            print(f"    wrong: cuda-bindings for a later CUDA than {route.cuda}, which is the driver's")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
