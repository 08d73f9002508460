"""Training state on disk: written to a temporary name and moved into place, so a kill loses minutes only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

SAVE_EVERY_S = 90.0
"""Seconds between two training states on disk."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    torch.save(state, part)
    part.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state that `save_state` left there, or None."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
