"""gmos-parity networks on a real bundle: it agrees with its reference, and a perturbed weight is located."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gmos_deploy.cli import guarded
from gmos_deploy.evaluation.parity_networks import networks_command
from gmos_deploy.evaluation.parity_sides import Side
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.gmos_ref.reference_networks import ReferenceNetworks
from gmos_deploy.parity_runs import load_side
from gmos_deploy.runtime.bundle import Bundle
from gmos_deploy.runtime.contract import network_specs


@pytest.fixture
def compare(
    tiny_bundle: Bundle, colour_video: Callable[..., Path], tmp_path: Path
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Compares the tiny bundle with a reference of these networks: exit status and result.json."""
    clip = colour_video("clip", [[(1, 4 + 6 * index, 8, 16, 24)] for index in range(6)])

    def call(networks: ReferenceNetworks) -> tuple[int, dict[str, Any]]:
        def load(side: Side) -> Any:
            if side.kind != "torch":
                return load_side(side)
            model = model_spec(preset("tiny"), "gmos")
            return TorchBackend(model, networks, device=torch.device("cpu"), precision="fp32")

        arguments = [clip, "--bundle", tiny_bundle.root, "--report", tmp_path / "report", "--calls", 2]
        status = guarded(networks_command(load), "gmos-parity", [str(word) for word in arguments])
        return status, json.loads((tmp_path / "report" / "result.json").read_text())

    return call


def test_bundle_agrees(
    compare: Callable[..., tuple[int, dict[str, Any]]], tiny_networks: ReferenceNetworks
) -> None:
    """On real activations every network of the bundle, the tracker's too, computes what the reference does."""
    status, result = compare(tiny_networks)
    assert (status, result["failures"]) == (0, [])
    assert {entry["network"] for entry in result["outputs"]} == set(
        network_specs(model_spec(preset("tiny"), "gmos"))
    )


@pytest.mark.parametrize(
    ("weight", "network"),
    [
        ("sam2.memory_encoder.out_proj.weight", "memory_encoder"),
        ("sam2.memory_attention.layers.0.linear1.weight", "memory_attention"),
        ("pi3.decoder.1.attn.proj.weight", "pi3_decoder"),
    ],
)
def test_a_perturbed_weight_is_located(
    compare: Callable[..., tuple[int, dict[str, Any]]],
    tiny_networks: ReferenceNetworks,
    weight: str,
    network: str,
) -> None:
    """One weight tensor scaled by a tenth: only the network that has it is beyond the limits."""
    part, _, name = weight.partition(".")
    perturbed = copy.deepcopy(tiny_networks)
    dict(getattr(perturbed, part).named_parameters())[name].data.mul_(1.1)
    status, result = compare(perturbed)
    assert status == 1
    assert {failure.split(",")[0] for failure in result["failures"]} == {network}
