"""Puts the training scripts of the nano networks on the path: they are scripts, not a package."""

from __future__ import annotations

import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"
sys.path[:0] = [str(TOOLS / "nano"), str(TOOLS)]
