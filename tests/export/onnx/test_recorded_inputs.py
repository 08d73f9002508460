"""What is recorded for engines to be compared on: calls of a clip, at the resolution of a shape profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.export.onnx.recorded_inputs import own_errors, record_inputs
from gmos_deploy.gmos_ref.loading import checkpoint_networks
from gmos_deploy.gmos_ref.networks import ReferenceNetworks
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.gmos_ref.reference_config import FOLDER, PACKED_BUNDLES, ReferenceConfig
from gmos_deploy.runtime.bundle.check_inputs import read_check_inputs
from gmos_deploy.runtime.bundle.packed_bundle import unpack_bundle
from gmos_deploy.runtime.contract import WITHOUT_WEIGHTS, NetworkName, Variant, network_specs

MODEL = model_spec(preset("tiny"), "gmos")

RESOLUTION = (112, 70)
"""Neither the clip's shape nor the area that the preset would take."""

PACKED_LIMIT_BYTES = 1_400_000
"""Of what nano's bundle keeps: the package has room for little more."""

Calls = dict[NetworkName, dict[str, NDArray[Any]]]


@pytest.fixture(scope="module")
def calls(tiny_networks: ReferenceNetworks) -> Calls:
    """Of the untrained tiny networks."""
    return record_inputs(tiny_networks, MODEL, RESOLUTION)


def test_every_network_with_weights_is_recorded_once(calls: Calls) -> None:
    """The tracker's with as many memories and pointers as a window gives; few objects are kept."""
    assert calls.keys() == network_specs(MODEL).keys() - WITHOUT_WEIGHTS
    assert calls["dino"]["frames"].shape == (1, 3, 70, 112)
    assert calls["pi3_decoder"]["tokens"].shape == (1, 5, 5, 8, MODEL.pi3_channels)
    attention = calls["memory_attention"]
    assert attention["memories"].shape[:2] == attention["pointers"].shape[:2] == (2, 4)
    assert attention["f"].shape[0] == 1
    for inputs in calls.values():
        assert all(np.isfinite(values.astype(np.float64)).all() for values in inputs.values())
        assert any(np.ptp(values.astype(np.float64)) > 0 for values in inputs.values())


def test_what_rounding_does_to_recorded_inputs_is_measured(
    calls: Calls, tiny_networks: ReferenceNetworks
) -> None:
    """In bfloat16 nothing can tell where the engine is compared; heads stay in float32."""
    some: Calls = {name: calls[name] for name in ("dino", "memory_attention", "proposer")}  # type: ignore[misc]
    found = own_errors(tiny_networks, MODEL, some, "bf16")
    assert [one.output for one in found["dino"]] == ["tokens"]
    assert 1e-4 < found["dino"][0].relative < 0.1
    assert found["memory_attention"][0].relative > 1e-5
    assert max(one.relative for one in found["proposer"]) == 0


@pytest.mark.parametrize("variant", ["gmos", "gmos-s"])
def test_the_packaged_bundles_hold_what_is_recorded_today(variant: Variant, tmp_path: Path) -> None:
    """Small, and near what this machine records: it may round otherwise."""
    bundle = unpack_bundle(PACKED_BUNDLES, variant, FOLDER, tmp_path / "nano")
    reference = ReferenceConfig(variant=variant, preset="nano", device="cpu", precision="fp32")
    fresh = record_inputs(checkpoint_networks(preset("nano"), reference), bundle.model, bundle.resolutions[0])
    for name in bundle.networks:
        stored = read_check_inputs(bundle, name)
        assert (stored is None) == (name in WITHOUT_WEIGHTS), "run tools/nano/pack_bundles.py"
        for key, values in (stored or {}).items():
            wanted = fresh[name][key]
            assert values.shape == wanted.shape, "run tools/nano/pack_bundles.py"
            wide = wanted.astype(np.float64)
            error = np.linalg.norm(values.astype(np.float64) - wide)
            assert error <= 0.01 * np.linalg.norm(wide), "run tools/nano/pack_bundles.py"
    sizes = [bundle.files.size(file) for file in bundle.files if file.endswith(".inputs.npz")]
    assert sum(sizes) <= PACKED_LIMIT_BYTES
