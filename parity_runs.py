"""Runs or loads one side of `gmos-parity` as `gmos-run` would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .errors import GmosError
from .evaluation.parity_sides import Side

if TYPE_CHECKING:
    from .network_sources import SourceRequest
    from .runtime.backend import Backend

BATCH_SIZE = 8


def run_side(side: Side, inputs: Sequence[Path], directory: Path) -> None:
    """Run the networks of a side on videos; its label maps go into a directory that is new or its own.

    Raises:
        GmosError: as `gmos-run`.
    """
    from .run_command import RunRequest, run_all  # noqa: PLC0415 - imports NumPy and PyAV

    run_all(
        RunRequest(
            networks=_networks(side),
            inputs=tuple(inputs),
            save_dir=directory,
            save_mode="mask",
            fps=None,
            stride=None,
            batch_size=BATCH_SIZE,
            device_budget=None,
            host_budget=None,
            spill_dir=None,
            existing="overwrite",
            quiet=False,
        )
    )


def load_side(side: Side) -> Backend:
    """Load the networks of a side.

    Raises:
        GmosError: as `gmos-run`.
    """
    return _networks(side).resolve().load()


def _networks(side: Side) -> SourceRequest:
    from .network_sources import SourceRequest  # noqa: PLC0415 - imports NumPy

    options = cast(dict[str, Any], side.run_options())
    choices = {"variant": ("gmos", "gmos-s"), "precision": ("auto", "fp32", "bf16", "fp16")}
    for name, known in choices.items():
        if options[name] not in (None, *known):
            raise GmosError(f"{side.text}: {name} {options[name]}, expected one of {', '.join(known)}")
    return SourceRequest(**options)
