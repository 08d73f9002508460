"""Make the environment that a role of this package needs, out of the packages installed here, without a network.

    python tools/device_environment.py DIR [--extra cpu] [--dependencies]

DIR becomes a virtual environment with links to gmos-deploy, the distributions that it and the extra
require, those that they require, and nothing else; with --dependencies gmos-deploy itself is left out.
Prints their sizes as JSON, in bytes by name.
"""

from __future__ import annotations

import argparse
import json
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gmos_deploy

PROJECT = "gmos-deploy"


def required(name: str, extras: set[str]) -> set[str]:
    """The canonical names of all distributions that a distribution with those extras requires, itself too."""
    found: set[str] = set()
    waiting = [(name, frozenset(extras))]
    seen = set(waiting)
    while waiting:
        owner, chosen = waiting.pop()
        found.add(canonicalize_name(owner))
        for line in metadata.requires(owner) or ():
            requirement = Requirement(line)
            wanted = (frozenset(requirement.extras), requirement.marker)
            applies = wanted[1] is None or any(wanted[1].evaluate({"extra": e}) for e in {"", *chosen})
            entry = (requirement.name, wanted[0])
            if applies and entry not in seen:
                seen.add(entry)
                waiting.append(entry)
    return found


def installed_files(name: str) -> list[Path]:
    """The files of a distribution inside its site-packages, relative to it, without compiled caches."""
    return [
        Path(file)
        for file in metadata.files(name) or ()
        if ".." not in file.parts and "__pycache__" not in file.parts
    ]


def make_environment(directory: Path, names: set[str], *, with_project: bool = True) -> dict[str, int]:
    """Link the distributions into a new environment; their sizes in bytes."""
    venv.create(directory, with_pip=False, symlinks=True)
    packages = next(directory.glob("lib/python*/site-packages"))
    if with_project:
        project = Path(gmos_deploy.__file__).parent
        (packages / gmos_deploy.__name__).symlink_to(project, target_is_directory=True)
    sizes = {}
    for name in sorted(names - {PROJECT}):
        sizes[name] = 0
        for file in installed_files(name):
            source = Path(str(metadata.distribution(name).locate_file(file)))
            sizes[name] += source.stat().st_size
            # File by file: distributions may share a folder, and a role has only some of them.
            link = packages / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source)
    return sizes


def main() -> None:
    """Make the environment and print what it holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a directory that does not exist yet")
    parser.add_argument("--extra", action="append", default=[], help="cpu, ref, ...; may be repeated")
    parser.add_argument("--dependencies", action="store_true", help="leave gmos-deploy itself out")
    options = parser.parse_args()
    if options.directory.exists():
        sys.exit(f"{options.directory} exists; name a new directory")
    try:
        names = required(PROJECT, set(options.extra))
        print(json.dumps(make_environment(options.directory, names, with_project=not options.dependencies)))
    except metadata.PackageNotFoundError as error:
        sys.exit(f"{error.name} is required and not installed; install gmos-deploy with its extras first")


if __name__ == "__main__":
    main()
