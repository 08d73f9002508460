"""Layers by kind: names of both libraries are understood, sums and the slowest are right, reports show them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.evaluation.profile.layer_kinds import KIND_OF_OPERATOR, OPERATORS, kind_of, network_layers
from gmos_deploy.runtime.layer_times import LayerTime, LayerTimes


def layer(name: str, operator: str = "", provider: str = "CPU", ms: float = 1.0, **more: Any) -> LayerTime:
    return LayerTime(name=name, operator=operator, provider=provider, ms=ms, **more)


@pytest.mark.parametrize(
    ("name", "operator", "kind"),
    [
        ("node_12", "MatMul", "matrix product"),
        ("attn/add", "FusedGemm", "matrix product"),
        ("x", "MultiHeadAttention", "attention"),
        ("conv/Softmax", "Softmax", "softmax"),
        ("x", "Conv", "convolution"),
        ("x", "LayerNormalization", "normalisation"),
        ("x", "Gelu", "elementwise"),
        ("x", "Transpose", "data movement"),
        ("x", "ArgMax", "reduction"),
        ("x", "Resize", "resize"),
        ("_gemm_mha_v2_0x1f28232a", "", "attention"),
        ("__myl_Fc_myl0_12", "", "matrix product"),
        ("__myl_Fc_myl0_12", "gemm", "matrix product"),
        ("__myl_MulMeanSubMulMeanAddSqrtDivMulMulAdd_myl0_5", "kgen", "normalisation"),
        ("__myl_AddMulSel_myl0_7", "kgen", "elementwise"),
        ("__myl_Tran_myl0_3", "", "data movement"),
        ("Reformatting CopyNode for Input Tensor 0", "Reformat", "data movement"),
        ("patch_embed + implicit_gemm", "CaskConvolution", "convolution"),
        ("__myl_0", "kgen", "elementwise"),
        ("{ForeignNode[a...b]}", "Myelin", "other"),
    ],
)
def test_what_a_layer_does(name: str, operator: str, kind: str) -> None:
    """By operator, else by the words of its type and name."""
    assert kind_of(layer(name, operator)) == kind


def test_no_operator_is_of_two_kinds() -> None:
    """Else the order would decide."""
    assert len(KIND_OF_OPERATOR) == sum(len(operators) for operators in OPERATORS.values())


def test_sums_shares_and_the_slowest() -> None:
    """Kinds by provider, the longest first; ten layers of twelve, the slowest first."""
    layers = [
        layer(f"mm{index}", "MatMul", ms=float(index), moved_bytes=100.0, calls=2) for index in range(11)
    ]
    layers.append(layer("move", "Transpose", "CUDA", ms=45.0))
    found = network_layers(
        "dino", {"B": 1}, "a side", LayerTimes(layers=tuple(layers), clock="device", iterations=3)
    )
    assert (found.network, found.side, found.clock, found.iterations) == ("dino", "a side", "device", 3)
    assert found.total_ms == 100
    assert [(entry.kind, entry.provider, entry.ms, entry.share, entry.layers) for entry in found.kinds] == [
        ("matrix product", "CPU", 55, 0.55, 11),
        ("data movement", "CUDA", 45, 0.45, 1),
    ]
    assert [entry.name for entry in found.slowest] == ["move", *(f"mm{index}" for index in range(10, 1, -1))]
    assert (found.slowest[1].share, found.slowest[1].moved_bytes, found.slowest[1].calls) == (0.1, 100, 2)


def test_layers_of_no_time_have_no_share() -> None:
    """A fake or a clock too coarse is no division by zero."""
    found = network_layers(
        "dino", {}, "", LayerTimes(layers=(layer("a", ms=0.0),), clock="host", iterations=1)
    )
    assert found.kinds[0].share == 0


@pytest.fixture
def report(
    tmp_path: Path,
    colour_backend: Callable[..., Any],
    colour_video: Callable[..., Path],
    load_sides: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> tuple[Path, str]:
    """The report of a side that tells its layers, and what was printed."""
    from gmos_deploy.cli import guarded
    from gmos_deploy.commands.profile import profile_command

    class Telling:
        def __init__(self) -> None:
            self._backend = colour_backend("gmos-s")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._backend, name)

        def layer_times(self, network: str, inputs: Any, *, warm_up: int, iterations: int) -> LayerTimes:
            assert (warm_up, iterations) == (1, 2)
            layers = (layer(f"{network}/<mm>[a...b]", "MatMul", ms=3.0), layer("t", "Transpose", ms=1.0))
            return LayerTimes(layers=layers, clock="host", iterations=iterations)

    clip = colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(6)])
    options = [
        "--side",
        "torch:fast",
        "--only",
        "networks",
        "--networks",
        "dino,gmos_s",
        "--layers",
        "--wide",
    ]
    arguments = [clip, *options, "--iterations", 2, "--warm_up", 1, "--report", tmp_path / "report"]
    load_sides(lambda _: Telling())
    assert guarded(profile_command, "gmos-profile", [str(word) for word in arguments]) == 0
    return tmp_path / "report", capsys.readouterr().out


def test_layers_are_in_every_report(report: tuple[Path, str]) -> None:
    """Table, JSON and page; names are no markup."""
    directory, out = report
    assert "matrix product 75%, data movement 25%" in out
    assert "gmos_s/<mm>[a...b]" in out, "--wide has the layers"
    result = json.loads((directory / "result.json").read_text())
    assert [entry["network"] for entry in result["layers"]] == ["dino", "gmos_s"]
    assert result["layers"][0]["slowest"][0]["name"] == "dino/<mm>[a...b]"
    assert result["layers"][0]["kinds"][0] == {
        "kind": "matrix product",
        "provider": "CPU",
        "ms": 3.0,
        "share": 0.75,
        "layers": 1,
    }
    assert result["without_layers"] == []
    page = (directory / "report.html").read_text().replace("<wbr>", "")
    assert page.count("<details>") == 4, "the shares of kinds, the slowest layers of two networks, the hashes"
    assert "dino/&lt;mm&gt;" in page
    assert "<mm>" not in page
