"""What a calibration is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import GmosError
from ..runtime.precision import PrecisionName
from .quantiser.layer_choice import QuantiserOptions
from .sampling.record_calls import SampleLimits
from .search.target_parity import TargetParity

EXCLUDED = "excluded"
"""Stands for the layers that are excluded from quantisation, beside names of networks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationConfig:
    """What to calibrate, on what, and where to.

    `target_parity` names the limits that networks must hold, by excluding their most sensitive layers, which stay fp16;
    without one a network must hold those of the precision, and none is excluded. `weight_only` names networks whose
    layers all compute in half precision from weights in eight bits; EXCLUDED among them does so for excluded layers.
    `target_masks` is the mean IoU that each result of each video must keep with the bundle's: networks become
    weight-only until it does. `samples` stays if it is given. `timed` measures the networks on ONNX Runtime before and
    after.
    """

    bundle: Path
    inputs: tuple[Path, ...]
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

    def __post_init__(self) -> None:
        if self.target_masks is not None and not 0 < self.target_masks <= 1:
            raise GmosError(f"--target_masks {self.target_masks:g}: expected a mean IoU above 0, up to 1")

    def beside(self, ending: str) -> Path:
        """A place beside the new bundle's."""
        out = self.out.resolve()
        return out.with_name(f"{out.name}.{ending}")
