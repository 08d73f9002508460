"""The loaded modules of one reference."""

from __future__ import annotations

from dataclasses import dataclass

from .gmos.gmos_s import GmosS
from .gmos.proposer import GmosProposer
from .pi3.encoder import Pi3Encoder
from .sam2.model import FeaturePredictor


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceNetworks:
    """On the CPU, in float32 and in eval mode."""

    pi3: Pi3Encoder
    sam2: FeaturePredictor
    head: GmosProposer | GmosS
