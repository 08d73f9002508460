"""Which limits networks must hold by keeping layers in half precision: `--target_parity` as a value."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast, get_args

from ..errors import GmosError
from ..evaluation.parity_limits import ProfileName
from ..runtime.contract import NetworkName

PROFILES = tuple(name for name in get_args(ProfileName) if name != "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetParity:
    """A profile for every network, others for some; None where nothing is to be kept."""

    profile: ProfileName | None = None
    networks: Mapping[str, ProfileName] = field(default_factory=dict)

    def __str__(self) -> str:
        """As on the command line."""
        parts = [f"{name}={profile}" for name, profile in self.networks.items()]
        return ",".join([self.profile, *parts] if self.profile else parts)

    def of(self, network: NetworkName) -> ProfileName | None:
        """The profile whose limits a network must hold."""
        return self.networks.get(network, self.profile)

    def check(self, networks: Collection[str]) -> None:
        """Refuse names that are not among networks.

        Raises:
            GmosError: one is not.
        """
        for name in self.networks:
            if name not in networks:
                raise GmosError(f"--target_parity {name}=…: expected one of {', '.join(networks)}")


def parse_target_parity(texts: Iterable[str]) -> TargetParity:
    """`PROFILE` and `NETWORK=PROFILE`, joined by commas.

    Raises:
        GmosError: no such profile, or two for the same.
    """
    found: dict[str, ProfileName] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        name, _, profile = part.rpartition("=")
        if profile not in PROFILES or (not name and "=" in part):
            raise GmosError(
                f"--target_parity {part}: expected PROFILE or NETWORK=PROFILE, the profile one of {', '.join(PROFILES)}"
            )
        if name in found:
            raise GmosError(f"--target_parity: two profiles for {name or 'every network'}")
        found[name] = cast(ProfileName, profile)
    return TargetParity(profile=found.pop("", None), networks=found)
