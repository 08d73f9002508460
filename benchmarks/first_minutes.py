"""The first five minutes from the built wheel: what each step takes, and how much is installed.

    python benchmarks/first_minutes.py [CLIP] [--extra cpu]

Builds the wheel of this checkout, makes an environment with `python -m venv`, installs the wheel with the extra as
pip does for anybody (from its index, with its cache), and runs the clip, for which nano's bundle is written first.
Seconds by the clock, and of the processor: on a busy machine the clock tells of others too.
Sizes are of all files in site-packages: with what pip compiles, and without it and pip. CLIP is carphone by default.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from against import clip_file

ROOT = Path(__file__).parents[1]
MIB = 1 << 20

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def timed(step: str, *words: object, cwd: Path, cache: Path) -> None:
    """Run a step, and print its seconds, by the clock and of the processor."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    start, before = time.monotonic(), os.times()
    ran = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**kept, "XDG_CACHE_HOME": str(cache)},
        check=False,
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        sys.exit(f"{step}: {ran.stderr}")
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{step:<28}{time.monotonic() - start:7.1f} s, {spent:6.1f} s of the processor", flush=True)


def size_mib(files: Iterable[Path]) -> float:
    """Of all of them together."""
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink()) / MIB


def show_sizes(packages: Path) -> None:
    """A line for all that lies there, and one for the largest."""
    files = list(packages.rglob("*"))
    plain = [
        file
        for file in files
        if "__pycache__" not in file.parts and file.relative_to(packages).parts[0][:3] != "pip"
    ]
    print(f"{'installed':<28}{size_mib(files):7.0f} MiB, {size_mib(plain):.0f} MiB without byte code and pip")
    by_folder: dict[str, list[Path]] = {}
    for file in plain:
        by_folder.setdefault(file.relative_to(packages).parts[0], []).append(file)
    sizes = {name: round(size_mib(inside)) for name, inside in by_folder.items()}
    largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:6]
    print(f"{'the largest':<28}{json.dumps({name: sizes[name] for name in largest})} MiB")


def main() -> None:
    """Take the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", type=Path, nargs="?", metavar="CLIP")
    parser.add_argument(
        "--extra", default="cpu", help="what the wheel is installed with (cpu); ref runs PyTorch"
    )
    given = parser.parse_args()
    clip = (clip_file("carphone_pristine") if given.clip is None else given.clip).resolve()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        source, environment, cache = here / "source", here / "environment", here / "cache"
        # A copy: a build leaves files in its checkout.
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", source], check=True)  # noqa: S607
        timed("the wheel", sys.executable, "-c", BUILD, here / "wheels", cwd=source, cache=cache)
        (wheel,) = (here / "wheels").iterdir()
        print(f"{'  its size':<28}{wheel.stat().st_size / 1e6:7.1f} MB")
        timed("python -m venv", sys.executable, "-m", "venv", environment, cwd=here, cache=cache)
        # The cache of pip is the user's own: what is timed is not the network.
        pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
        timed("pip install WHEEL[…]", *pip, f"{wheel}[{given.extra}]", cwd=here, cache=Path.home() / ".cache")
        command = [environment / "bin" / "gmos-run", clip, "--quiet", "--overwrite"]
        timed("gmos-run CLIP", *command, cwd=here, cache=cache)
        timed("gmos-run --help", command[0], "--help", cwd=here, cache=cache)
        show_sizes(next(environment.glob("lib/python*/site-packages")))


if __name__ == "__main__":
    main()
