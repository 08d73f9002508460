"""The acceptance run's program and its steps, found as the program itself finds them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a program of the folder, or a part of one."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module
