"""How benchmarks start the package's commands: in processes of their own, as installed beside the interpreter."""

from __future__ import annotations

import sys
from pathlib import Path


def installed(name: str) -> str:
    """Path of a command such as gmos-run.

    Raises:
        SystemExit: it is not there.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        sys.exit(f"{path} is missing: run this with the Python that gmos-deploy is installed in")
    return str(path)
