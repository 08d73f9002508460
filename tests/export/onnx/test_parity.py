"""gmos-parity networks on a real bundle: it agrees with its reference, and a perturbed weight is located."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from gmos_deploy.cli import guarded
from gmos_deploy.commands.parity import networks_command, video_command
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.networks import ReferenceNetworks
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.networks import BACKENDS, NetworkChoice
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.contract import network_specs


@pytest.fixture
def compare(
    tiny_bundle: Bundle,
    colour_video: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Compares the tiny bundle with a reference of these networks: exit status and result.json."""
    clip = colour_video("clip", [[(1, 4 + 6 * index, 8, 16, 24)] for index in range(6)])

    def call(networks: ReferenceNetworks) -> tuple[int, dict[str, Any]]:
        def load(choice: NetworkChoice, _: object) -> Any:
            model = model_spec(preset("tiny"), "gmos")
            return TorchBackend(model, networks, device=torch.device("cpu"), precision="fp32")

        monkeypatch.setitem(BACKENDS, "torch", replace(BACKENDS["torch"], open=load))
        arguments = [clip, "--bundle", tiny_bundle.root, "--report", tmp_path / "report", "--calls", 2]
        status = guarded(networks_command, "gmos-parity", [str(word) for word in arguments])
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


def test_stages_of_a_bundle(
    tiny_bundle: Bundle, colour_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference and its bundle agree in every stage, free-running as gmos-run runs them and teacher-forced."""
    clip = colour_video("clip", [[(1, 4 + 6 * index, 8, 16, 24)] for index in range(6)])
    report = tmp_path / "report"
    sides = ["--a", "torch:preset=tiny,device=cpu", "--b", f"onnxruntime:{tiny_bundle.root}"]
    arguments = [clip, "--stride", 1, *sides, "--teacher_forced", "--report", report]
    status = guarded(video_command, "gmos-parity", [str(argument) for argument in arguments])
    assert status == 0, capsys.readouterr().err
    result = json.loads((report / "result.json").read_text())
    assert [(entry["stage"], entry["mode"], entry["beyond"]) for entry in result["stages"]] == [
        ("proposer", "free", None),
        ("mos-i", "free", None),
        ("mos", "free", None),
        ("pi3", "teacher_forced", None),
        ("sam2_encoder", "teacher_forced", None),
        ("proposer", "teacher_forced", None),
        ("mos-i", "teacher_forced", None),
        ("mos", "teacher_forced", None),
    ]
    free, forced = (
        next(entry for entry in result["stages"] if (entry["stage"], entry["mode"]) == ("proposer", mode))
        for mode in ("free", "teacher_forced")
    )
    assert free["proposals_a"] == forced["proposals_a"] > 0
    assert result["born_in"][0]["stages"] == []


@pytest.fixture
def find_layer(
    tiny_bundle: Bundle, colour_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any], str, str]]:
    """Looks for the first layer that differs between the tiny bundle and another side."""
    clip = colour_video("clip", [[(1, 4 + 6 * index, 8, 16, 24)] for index in range(6)])

    def call(side: str, sought: str) -> tuple[int, dict[str, Any], str, str]:
        report = tmp_path / "report"
        sides = ["--a", f"onnxruntime:{tiny_bundle.root}", "--b", side, "--calls", 1]
        arguments = [
            clip,
            *sides,
            "--first_divergence",
            sought,
            "--networks",
            "pi3_decoder",
            "--report",
            report,
        ]
        status = guarded(networks_command, "gmos-parity", [str(word) for word in arguments])
        captured = capsys.readouterr()
        result = json.loads((report / "result.json").read_text()) if report.is_dir() else {}
        return status, result, captured.out, captured.err

    return call


def test_the_layer_of_a_perturbed_weight_is_named(
    find_layer: Callable[..., tuple[int, dict[str, Any], str, str]],
    bundle_copy: Path,
    edit_manifest: Callable[[Path, Callable[[dict[str, Any]], None]], None],
    tmp_path: Path,
) -> None:
    """One weight of one layer of an exported graph, scaled by a hundredth: that module is the first that differs."""
    path = bundle_copy / "pi3_decoder.ort.onnx"
    model = onnx.load(path, load_external_data=False)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "pi3.decoder.1.norm2.weight")
    values = onnx.numpy_helper.to_array(weight) * 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)

    def rehash(manifest: dict[str, Any]) -> None:
        data = path.read_bytes()
        manifest["files"][path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    edit_manifest(bundle_copy, rehash)
    status, result, out, _ = find_layer(f"onnxruntime:{bundle_copy}", "pi3_decoder.geometry")
    assert status == 1
    found = result["first_layer"]
    assert (found["first"]["module"], found["first"]["operator"]) == (
        "pi3.decoder.1.norm2",
        "LayerNormalization",
    )
    assert found["jumps"][0] == found["first"]
    assert "pi3_decoder.geometry first differs in pi3.decoder.1.norm2, LayerNormalization" in out
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<h2>First divergence</h2>" in page


def test_layers_of_equal_bundles(
    find_layer: Callable[..., tuple[int, dict[str, Any], str, str]], tiny_bundle: Bundle
) -> None:
    """Equal bundles have no first layer."""
    status, result, out, _ = find_layer(f"onnxruntime:{tiny_bundle.root}", "pi3_decoder")
    assert status == 0
    assert result["first_layer"]["first"] is None
    assert "no layer's relative error passes 0.0001" in out


@pytest.mark.parametrize(
    ("side", "sought", "message"),
    [
        (
            "torch:tiny",
            "pi3_decoder",
            "--first_divergence compares two bundles on onnxruntime, and --b is torch:tiny",
        ),
        (
            "onnxruntime:{bundle}",
            "unet",
            "--first_divergence unet: expected NETWORK[.OUTPUT] with one of sam2_resize, dino",
        ),
        ("onnxruntime:{bundle}", "dino.f", "--first_divergence dino.f: dino has the outputs tokens, not 'f'"),
    ],
)
def test_layers_that_cannot_be_looked_for(
    find_layer: Callable[..., tuple[int, dict[str, Any], str, str]],
    tiny_bundle: Bundle,
    side: str,
    sought: str,
    message: str,
) -> None:
    """What has no graph, or is no network of it, is one line, before anything runs."""
    status, _, _, err = find_layer(side.format(bundle=tiny_bundle.root), sought)
    assert status == 2
    assert message in err
