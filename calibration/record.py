"""What a bundle, and what unfinished work, says about the calibration it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import onnxruntime

from .. import __version__
from ..runtime.bundle.manifest import Bundle
from ..runtime.contract import NetworkName
from .config import CalibrationConfig
from .network_forms import CalibratedNetwork
from .search.target_masks import MaskTrial

VideoRecords = Mapping[str, Mapping[str, Any]]
"""Records of sampled videos by name."""

VERSIONS = {"gmos-deploy": __version__, "onnxruntime": str(onnxruntime.__version__)}
"""ONNX Runtime's is of the one that runs the networks, whatever distribution it came with."""


def work_settings(
    config: CalibrationConfig, parent: Bundle, videos: VideoRecords, names: Sequence[NetworkName]
) -> dict[str, Any]:
    """What choices, comparisons and masks depend on. Which layers are excluded is a part of each comparison."""
    return {
        "versions": VERSIONS,
        "bundle": parent.identity,
        "precision": config.precision,
        "quantiser": asdict(config.quantiser),
        # Weights that networks share are rounded for the first of them.
        "networks": list(names),
        "weight_only": [*config.weight_only, config.target_masks is not None],
        "device": config.device,
        "videos": dict(videos),
    }


def calibration_record(
    config: CalibrationConfig,
    parent: Bundle,
    videos: VideoRecords,
    made: Sequence[CalibratedNetwork],
    trials: Sequence[MaskTrial],
) -> dict[str, Any]:
    """The field `calibration` of `bundle.json`."""
    quantiser = asdict(config.quantiser)
    method, percentile = quantiser.pop("method"), quantiser.pop("percentile")
    return {
        "precision": config.precision,
        "parent": {"identity": parent.identity, "precision": parent.precision},
        "ranges": method,
        "percentile": percentile if method == "percentile" else None,
        **quantiser,
        "target_parity": str(config.target_parity) or None,
        "weight_only": list(config.weight_only),
        "target_masks": config.target_masks,
        "mask_trials": [asdict(trial) for trial in trials],
        "seed": config.limits.seed,
        "max_samples": config.limits.max_samples,
        "max_bytes": config.limits.max_bytes,
        "videos": [
            {
                **video["settings"]["video"],
                "frames": video["frames"],
                "stride": video["settings"]["stride"],
                "calls": {name: entry["seen"] for name, entry in video["networks"].items()},
                "samples": {name: len(entry["samples"]) for name, entry in video["networks"].items()},
            }
            for video in videos.values()
        ],
        "networks": {network.name: network.record() for network in made},
        "versions": VERSIONS,
    }
