"""Which limits networks must hold by excluding layers, which stay fp16: `--target_parity` as a value."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ...errors import GmosError
from ...runtime.comparison.parity import LIMITS
from ...runtime.contract import NetworkName
from ...runtime.precision import Limits, PrecisionName

PROFILES = tuple(name for name in LIMITS if name != "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetParity:
    """A target for every network, others for some; None where nothing is to be excluded.

    A target is the name of a profile or a relative error, as on the command line.
    """

    target: str | None = None
    networks: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """As on the command line."""
        parts = [f"{name}={target}" for name, target in self.networks.items()]
        return ",".join([self.target, *parts] if self.target else parts)

    def of(self, network: NetworkName) -> str | None:
        """The target of a network."""
        return self.networks.get(network, self.target)

    def limits(self, network: NetworkName, precision: PrecisionName) -> Limits:
        """What a network must hold: without a target the limits of its precision."""
        target = self.of(network) or precision
        found = LIMITS.get(target)
        return replace(LIMITS[precision], relative=float(target)) if found is None else found

    def check(self, networks: Collection[str]) -> None:
        """Refuse names that are not among networks.

        Raises:
            GmosError: one is not.
        """
        for name in self.networks:
            if name not in networks:
                raise GmosError(f"--target_parity {name}=…: expected one of {', '.join(networks)}")


def parse_target_parity(texts: Iterable[str]) -> TargetParity:
    """`TARGET` and `NETWORK=TARGET`, joined by commas.

    Raises:
        GmosError: no such profile and no relative error, or two for the same.
    """
    found: dict[str, str] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        name, _, target = part.rpartition("=")
        if not (target in PROFILES or _is_error(target)) or (not name and "=" in part):
            raise GmosError(
                f"--target_parity {part}: expected TARGET or NETWORK=TARGET, the target one of {', '.join(PROFILES)}, "
                "or a relative error between 0 and 1"
            )
        if name in found:
            raise GmosError(f"--target_parity: two targets for {name or 'every network'}")
        found[name] = target
    return TargetParity(target=found.pop("", None), networks=found)


def _is_error(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False
