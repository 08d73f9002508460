"""Layer times of a real bundle on ONNX Runtime, alone and in a profile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gmos_deploy.cli import guarded
from gmos_deploy.commands.profile import profile_command
from gmos_deploy.evaluation.profile.layer_kinds import OTHER, kind_of
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.bundle.seeded_inputs import seeded_inputs
from gmos_deploy.runtime.onnx.backend import open_bundle_backend

FRAMES = 4


@pytest.mark.parametrize(
    ("name", "lengths", "operator", "calls"),
    [
        ("sam2_encoder", {"B": 2}, "Conv", 1),
        # Three frames of a call run on their own.
        ("proposal_labels", {"B": 3, "H": 40, "W": 60}, "ArgMax", 3),
    ],
)
def test_layers_of_a_network(
    tiny_bundle: Bundle, name: str, lengths: dict[str, int], operator: str, calls: int
) -> None:
    """Every node has its operator, provider, time and bytes; calls are counted per call of the network."""
    backend = open_bundle_backend(tiny_bundle.root, device="cpu")
    inputs = seeded_inputs(name, tiny_bundle.networks[name].inputs, tiny_bundle.model, lengths)  # type: ignore[index,arg-type]
    before = set(Path.cwd().iterdir())
    found = backend.layer_times(name, inputs, warm_up=1, iterations=2)  # type: ignore[arg-type]
    assert (found.clock, found.iterations) == ("host", 2)
    layers = {layer.operator: layer for layer in found.layers}
    assert layers[operator].calls == calls
    assert {layer.provider for layer in found.layers} == {"CPU"}
    assert all(layer.ms >= 0 and (layer.moved_bytes or 0) >= 0 for layer in found.layers)
    assert sum(layer.ms for layer in found.layers) > 0
    assert sum(layer.moved_bytes or 0 for layer in found.layers) > 0
    unknown = sorted({layer.operator for layer in found.layers if kind_of(layer) == OTHER})
    assert not unknown, f"operators of no kind: {unknown}"
    assert set(Path.cwd().iterdir()) == before, "the trace is gone"
    backend.close()


def test_a_profile_of_a_bundle(
    tiny_bundle: Bundle,
    colour_video: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its work is counted, held against the processor, and its layers are told."""
    clip = colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(FRAMES)])
    words = [
        str(clip), "--side", f"onnxruntime:{tiny_bundle.root}", "--only", "networks", "--networks",
        "sam2_resize,sam2_encoder", "--iterations", "2", "--warm_up", "0", "--layers", "--report", str(tmp_path),
    ]  # fmt: skip
    assert guarded(profile_command, "gmos-profile", words) == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "result.json").read_text())
    resize, encoder = result["networks"]
    at = tiny_bundle.networks["sam2_encoder"]
    assert encoder["flops"] == at.flops / at.flops_at["B"]
    weights = 4 * at.parameters
    assert encoder["bytes"] > weights
    assert encoder["roofline_share"] > 0
    assert encoder["limit_ms"] > 0
    side = tiny_bundle.model.sam2_image_px
    assert resize["bytes"] == 64 * 96 * 3 + 4 * 3 * side**2
    assert (resize["flops"], resize["bound"]) == (0.0, "memory")
    assert {entry["network"] for entry in result["layers"]} == {"sam2_resize", "sam2_encoder"}
    assert result["rates"][0]["device"] == "cpu"
