"""Networks as levers: bundles of the same networks that were made otherwise, and what checkpoints can be loaded as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import GmosError
from ..networks import BACKENDS, NetworkSource
from ..runtime.backend import Backend
from ..runtime.contract import ModelSpec
from ..runtime.precision import EXPORTED

Levers = Mapping[str, Any]

BUNDLE, PRECISION, LOCAL = "bundle", "precision", "local_layers"
NETWORK_LEVERS = (BUNDLE, PRECISION, LOCAL)
"""Names of levers that choose networks; all others are options of a run."""

LOCAL_LAYERS = (1, 2, 3, 6, 9, 12)
"""Settings of --local_layers, as far as the decoder has layers."""


def network_part(levers: Levers) -> dict[str, Any]:
    """The levers among others that choose networks."""
    return {name: value for name, value in levers.items() if name in NETWORK_LEVERS}


def run_part(levers: Levers) -> dict[str, Any]:
    """The levers among others that are options of a run."""
    return {name: value for name, value in levers.items() if name not in NETWORK_LEVERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherNetworks:
    """What may be tried in place of the exact networks, from mild to strong: in `precision`, and `local` layers.

    `identities` tell bundles from others, as JSON values; `left_out` says what cannot be tried, in words by lever.
    """

    precision: Sequence[Levers] = ()
    local: Sequence[Levers] = ()
    identities: Sequence[Mapping[str, Any]] = ()
    left_out: Mapping[str, str] | None = None


class Networks:
    """The exact networks, loaded, and whichever others were asked for last. A context manager.

    Raises:
        GmosError: they cannot be loaded.
    """

    def __init__(self, source: NetworkSource) -> None:
        self._source = source
        self.exact = source.load()
        self._other: tuple[Levers, Backend] | None = None

    def __enter__(self) -> Networks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_other()
        self.exact.close()

    def backend(self, levers: Levers) -> Backend:
        """The networks that levers choose.

        Raises:
            GmosError: they cannot be loaded.
        """
        own = network_part(levers)
        if not own:
            return self.exact
        if self._other is None or self._other[0] != own:
            self._close_other()
            self._other = (own, source_of(self._source, own).load())
        return self._other[1]

    def _close_other(self) -> None:
        if self._other is not None:
            self._other[1].close()
            self._other = None


def source_of(source: NetworkSource, levers: Levers) -> NetworkSource:
    """Networks with levers that choose them.

    Raises:
        GmosError: there are no such networks.
    """
    own = network_part(levers)
    if BUNDLE in own:
        own[BUNDLE] = Path(own[BUNDLE])
    return replace(source.choice, **own).resolve() if own else source


def other_networks(source: NetworkSource, bundles: Sequence[Path], exact: Backend) -> OtherNetworks:
    """What can be tried: other bundles that were given, or other precisions and local layers of checkpoints.

    Raises:
        GmosError: a bundle cannot be used, or is of other networks.
    """
    if bundles:
        others = [_checked(source, bundle) for bundle in bundles]
        return OtherNetworks(
            precision=[{BUNDLE: str(bundle)} for bundle in bundles],
            identities=[one.settings() for one in others],
            left_out={"local": "local_layers: of other bundles, those that were given are tried"},
        )
    if LOCAL not in BACKENDS[source.choice.backend].options:
        return OtherNetworks(
            left_out={
                "precision": "precision: name bundles in others with --other_bundle, or give checkpoints",
                "local": "local_layers: they need another export; name it with --other_bundle, or give checkpoints",
            }
        )
    # A backend's description names the precision that `auto` was settled to.
    named = exact.description.split(", ")
    return OtherNetworks(
        precision=[
            {PRECISION: one} for one in EXPORTED if one not in named and _loads(source, {PRECISION: one})
        ],
        local=[{LOCAL: count} for count in LOCAL_LAYERS if _loads(source, {LOCAL: count})],
    )


def _loads(source: NetworkSource, levers: Levers) -> bool:
    """Whether networks have so many layers, and the device the precision."""
    try:
        source_of(source, levers).check()
    except GmosError:
        return False
    return True


def _checked(source: NetworkSource, bundle: Path) -> NetworkSource:
    other = source_of(source, {BUNDLE: bundle})
    other.check()
    if _plain(other.model) != _plain(source.model):
        raise GmosError(
            f"--other_bundle {bundle} holds {other.model.variant} of the {other.model.preset} size, expected the same "
            f"networks as --bundle, {source.model.variant} of the {source.model.preset} size"
        )
    return other


def _plain(model: ModelSpec) -> ModelSpec:
    return replace(model, frame_blocks=0)
