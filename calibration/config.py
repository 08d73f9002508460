"""What a calibration is asked to do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import GmosError
from ..runtime.bundle.manifest import Bundle, open_bundle
from ..runtime.bundle.new_bundle import beside
from ..runtime.bundle.signature import Trust
from ..runtime.comparison.parity import LIMITS
from ..runtime.contract import NetworkName
from ..runtime.precision import Limits, PrecisionName
from .quantiser.layer_choice import QuantiserOptions
from .sampling.record_calls import SampleLimits

EXCLUDED = "excluded"
"""Stands for the layers that are excluded from quantisation, beside names of networks."""

PROFILES = tuple(name for name in LIMITS if name != "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetParity:
    """`--target_parity`: a target for every network, others for some; None where nothing is to be excluded.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """What to calibrate, on what, and where to.

    `target_parity` names the limits that networks must hold, by excluding their most sensitive layers, which stay fp16;
    without one a network must hold those of the precision, and none is excluded. `weight_only` names networks whose
    layers all compute in half precision from weights in eight bits; EXCLUDED among them does so for excluded layers.
    `target_masks` is the mean IoU that each result of each video must keep with the bundle's: networks become
    weight-only until it does. `samples` stays if it is given. `trust` has public keys: with some, the bundle must be
    signed with one of them. `timed` measures the networks on ONNX Runtime before and
    after.
    """

    bundle: Path
    inputs: tuple[Path | str, ...]
    precision: PrecisionName
    out: Path
    networks: tuple[str, ...] = ()
    limits: SampleLimits
    quantiser: QuantiserOptions = field(default_factory=QuantiserOptions)
    target_parity: TargetParity = field(default_factory=TargetParity)
    weight_only: tuple[str, ...] = ()
    target_masks: float | None = None
    sensitivity: bool = False
    validated: bool = True
    timed: bool = False
    samples: Path | None = None
    fps: float | None = None
    stride: int | None = None
    device: str = "cpu"
    force: bool = False
    trust: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.target_masks is not None and not 0 < self.target_masks <= 1:
            raise GmosError(f"--target_masks {self.target_masks:g}: expected a mean IoU above 0, up to 1")

    def parent(self) -> Bundle:
        """The bundle that is quantised.

        Raises:
            GmosError: it cannot be used, or is not as somebody who is trusted signed it.
        """
        return open_bundle(self.bundle, Trust(keys=self.trust))

    def beside(self, ending: str) -> Path:
        """A place beside the new bundle's."""
        return beside(Path(os.path.realpath(self.out)), ending)
