"""Many videos: lists of them, claims on them, workers of this machine and of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .segmenter import Segmenter, rows_of

__all__ = ["Segmenter", "rows_of"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever it is
    """What Ray Data is given, imported where it is asked for: NumPy and PyAV come with it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import segmenter  # noqa: PLC0415 - see above

    return getattr(segmenter, name)
