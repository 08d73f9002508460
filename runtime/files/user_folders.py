"""Folders of this user, if there are any."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from platformdirs import user_cache_path, user_config_path

APPLICATION = "gmos-deploy"


def user_cache() -> Path | None:
    """Where this user's files are that can be made again; None for a user without a home directory."""
    return _absolute(partial(user_cache_path, APPLICATION))


def user_config() -> Path | None:
    """Where what is this user's own is kept; None for a user without a home directory."""
    return _absolute(partial(user_config_path, APPLICATION, appauthor=False))


def _absolute(find: Callable[[], Path]) -> Path | None:
    try:
        found = find()
    # What `Path.home` raises.
    except (RuntimeError, KeyError):
        return None
    # Older versions of platformdirs give a relative path.
    return found if found.is_absolute() else None
