"""A real GPU, and a bundle in half precision to run on it.

`pytest -m gpu` runs these. Without a GPU they are skipped; a GPU that is there and cannot be used is a
failure, and so is a missing one where GMOS_REQUIRE_GPU is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gmos_deploy.export.onnx.bundle_export import ExportConfig, export_bundle
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.gmos_ref.reference_config import ReferenceConfig
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.tensorrt.gpu import find_device
from gmos_deploy.runtime.tensorrt.record import DeviceIdentity

SMALL = preset("small")
NODES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0")
"""Where Linux has an NVIDIA GPU: a card, or one inside a Jetson."""


@pytest.fixture(scope="session")
def gpu() -> DeviceIdentity:
    """The GPU of this machine."""
    found = find_device()
    if found is not None:
        return found
    if os.environ.get("GMOS_REQUIRE_GPU") or any(Path(node).exists() for node in NODES):
        pytest.fail("a GPU is expected here, and CUDA finds none: check nvidia-smi")
    pytest.skip("no GPU on this machine")


@pytest.fixture(scope="session")
def gpu_bundle(gpu: DeviceIdentity, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Bundles of the small preset by precision, with stand-in weights, exported once."""
    made: dict[str, Bundle] = {}

    def get(precision: str) -> Bundle:
        if precision not in made:
            reference = ReferenceConfig(variant="gmos", preset="small", device="cpu", precision="fp32")
            fields: dict[str, Any] = {"precision": precision, "aspect": ("4:3",)}
            out = tmp_path_factory.mktemp("gpu") / precision
            made[precision] = export_bundle(ExportConfig(out=out, reference=reference, **fields))
        return made[precision]

    return get


@pytest.fixture(scope="session")
def reference() -> TorchBackend:
    """What the bundles were exported from, in float32 on the CPU."""
    networks = stand_in_networks(SMALL, "gmos")
    return TorchBackend(model_spec(SMALL, "gmos"), networks, device=torch.device("cpu"), precision="fp32")
