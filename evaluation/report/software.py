"""Which software this is: the version, and the commit where it is known."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

from ... import __file__ as package_file
from ... import __version__

ROOT = Path(package_file).parent
STAMP = "commit.txt"
"""In what was built, beside the package's modules: the commit; setup.py writes it."""

DESCRIBE = ("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def commit(root: Path = ROOT) -> str | None:
    """The commit of a checkout, with `-dirty` where files of it were changed, or of what a package was built from."""
    with suppress(OSError, subprocess.SubprocessError):
        # Not of a repository further up, in which a virtual environment may lie.
        if (root / ".git").exists():
            asked = subprocess.run(  # noqa: S603 - no words of the user's
                DESCRIBE, cwd=root, check=True, capture_output=True, text=True, timeout=10
            )
            return asked.stdout.strip()
        return (root / STAMP).read_text(encoding="utf-8").strip() or None
    return None


def software() -> str:
    """The version, and the commit in brackets."""
    known = commit()
    return __version__ if known is None else f"{__version__} (commit {known})"
