"""The loaded modules of one reference."""

from __future__ import annotations

from dataclasses import dataclass

from .gmos_s import GmosS
from .pi3 import Pi3Encoder
from .proposer import GmosProposer
from .sam2_model import FeaturePredictor


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceNetworks:
    """On the CPU, in float32 and in eval mode."""

    pi3: Pi3Encoder
    sam2: FeaturePredictor
    head: GmosProposer | GmosS
