"""Runs or loads one side of `gmos-parity` as `gmos-run` would."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from .errors import GmosError
from .evaluation.compare.sides import Side, Videos, WrapBackend
from .network_sources import NetworkSource, SourceRequest
from .runtime.backend import Backend
from .runtime.contract import ModelSpec
from .runtime.precision import PRECISIONS


def run_side(side: Side, videos: Videos, directory: Path, wrap: WrapBackend) -> None:
    """Run the networks of a side on videos; its label maps go into a directory that is new or its own.

    Raises:
        GmosError: as `gmos-run`.
    """
    from .run_command import RunRequest, run_all  # noqa: PLC0415 - imports NumPy and PyAV
    from .runtime.pipeline.sequence_run import DEFAULT_BATCH_SIZE  # noqa: PLC0415 - the same

    networks = _networks(side)
    run_all(
        RunRequest(
            networks=WrappedRequest(
                **{field.name: getattr(networks, field.name) for field in fields(networks)}, wrap=wrap
            ),
            inputs=videos.inputs,
            save_dir=directory,
            save_mode="mask",
            fps=videos.fps,
            stride=videos.stride,
            batch_size=DEFAULT_BATCH_SIZE,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedRequest(SourceRequest):
    """Networks whose backend is wrapped once it is loaded."""

    wrap: WrapBackend

    def resolve(self) -> NetworkSource:
        """See `SourceRequest`."""
        # Not super(): it does not know a class that was made again for its slots.
        return WrappedSource(source=SourceRequest.resolve(self), wrap=self.wrap)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedSource:
    """A source whose backend is wrapped. Implements `NetworkSource`."""

    source: NetworkSource
    wrap: WrapBackend

    @property
    def model(self) -> ModelSpec:
        """See `NetworkSource`."""
        return self.source.model

    def settings(self) -> dict[str, Any]:
        """See `NetworkSource`."""
        return self.source.settings()

    def load(self) -> Backend:
        """See `NetworkSource`."""
        return self.wrap(self.source.load())


def _networks(side: Side) -> SourceRequest:
    options = cast(dict[str, Any], side.run_options())
    choices = {"variant": ("gmos", "gmos-s"), "precision": ("auto", *PRECISIONS)}
    for name, known in choices.items():
        if options[name] not in (None, *known):
            raise GmosError(f"{side.text}: {name} {options[name]}, expected one of {', '.join(known)}")
    return SourceRequest(**options)
