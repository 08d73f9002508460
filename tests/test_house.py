"""The size of the house: lines of product code, files in a folder, lines in a file; targets that help names."""

from __future__ import annotations

import re
from pathlib import Path

import gmos_deploy

ROOT = Path(gmos_deploy.__file__).parent
OUTSIDE = {"tests", "tools", "benchmarks", "docs", "examples", "build"}
"""Folders that are not shipped."""

PRODUCT_LINES = 54_700
"""All lines of product code together. Who raises it says by what, in the changelog."""

FILE_LINES = 500
FOLDER_FILES = 20

OVER_LONG: set[str] = set()
"""Files over the limit that are still to be split; it only gets shorter."""

OVER_FULL: set[str] = set()
"""The same for folders."""


def product_files() -> list[Path]:
    """The modules at the root, and all in packages that are shipped."""
    found = [file for file in ROOT.glob("*.py") if file.name != "setup.py"]
    for package in sorted(ROOT.glob("*/__init__.py")):
        if package.parent.name not in OUTSIDE:
            found += package.parent.rglob("*.py")
    return sorted(found)


def lines_of(file: Path) -> int:
    """All lines, with comments and blank ones, as `wc -l` counts."""
    return file.read_text(encoding="utf-8").count("\n")


def test_lines_of_product_code() -> None:
    """No more than agreed."""
    lines = {str(file.relative_to(ROOT)): lines_of(file) for file in product_files()}
    assert len(lines) > 100
    total = sum(lines.values())
    print(f"{total} lines of product code in {len(lines)} files, {PRODUCT_LINES} are the limit")  # noqa: T201
    assert total <= PRODUCT_LINES


def test_no_file_is_too_long() -> None:
    """Of product code, and of the tests, tools and benchmarks beside it."""
    long = {str(file.relative_to(ROOT)) for file in product_files() if lines_of(file) > FILE_LINES}
    assert long <= OVER_LONG


def test_no_folder_is_too_full() -> None:
    """Python files that lie in one folder, its `__init__` among them."""
    folders: dict[str, int] = {}
    for file in product_files():
        folder = str(file.parent.relative_to(ROOT))
        folders[folder] = folders.get(folder, 0) + 1
    full = {folder: count for folder, count in folders.items() if count > FOLDER_FILES}
    assert set(full) <= OVER_FULL, full


def test_help_names_every_target() -> None:
    """`make help` says of each target what it does."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    declared = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert declared is not None
    targets = set(declared[1].split())
    assert targets == set(re.findall(r"^([a-z][\w-]*):", text, re.MULTILINE)), "all are phony"
    assert targets == set(re.findall(r"^([a-z][\w-]*):.*## \S", text, re.MULTILINE))
