"""Engines of quantised networks, built for real by TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gmos_deploy.calibration.calibrate import calibrate
from gmos_deploy.calibration.config import CalibrationConfig, parse_target_parity
from gmos_deploy.calibration.network_forms import CalibratedNetwork
from gmos_deploy.errors import GmosError
from gmos_deploy.export.engines.build import EngineBuild, build_engines
from gmos_deploy.export.engines.options import BuildOptions
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.contract import NetworkName
from gmos_deploy.runtime.tensorrt.library import load_tensorrt
from gmos_deploy.runtime.tensorrt.record import EngineRecord

pytest.importorskip("tensorrt_rtx")

SOME = {"weight_only": ("excluded",), "target_parity": parse_target_parity(["fp16"])}


def built(root: Path, name: NetworkName, *targets: str) -> EngineRecord:
    """The record of the engine of a network."""
    build = EngineBuild(
        bundle=open_bundle(root),
        library=load_tensorrt("tensorrt-rtx"),
        device=None,
        options=BuildOptions(targets=targets),
    )
    (outcome,) = build_engines(root, "tensorrt-rtx", networks=(name,), build=build, checked=False)
    assert outcome.record is not None
    return outcome.record


@pytest.fixture
def int8_copy(int8_bundle: tuple[Bundle, Mapping[str, CalibratedNetwork]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8_bundle[0].root, tmp_path / "int8"))


@pytest.fixture
def fp8_copy(fp8_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fp8_bundle.root, tmp_path / "fp8"))


def test_int8_engines_keep_weights_in_eight_bits_and_attention_fused(
    int8_copy: Path, half_bundle: Bundle, tmp_path: Path
) -> None:
    """For Ampere, Ada and Blackwell at once; the plan holds the weights as they are stored."""
    record = built(int8_copy, "pi3_decoder", "sm86", "sm89", "sm120")
    half = built(Path(shutil.copytree(half_bundle.root, tmp_path / "half")), "pi3_decoder", "sm86")
    assert record.precision == "int8"
    assert record.attention["expected"] == record.attention["fused"] == 4
    assert record.attention["lost"] is None
    assert record.weight_bytes < 0.65 * half.weight_bytes


def test_fp8_engines_keep_weights_in_eight_bits_and_attention_fused(fp8_copy: Path) -> None:
    """For Ada and Blackwell."""
    record = built(fp8_copy, "pi3_decoder", "sm89", "sm120")
    assert record.precision == "fp8"
    assert record.attention["expected"] == record.attention["fused"] == 4
    assert record.attention["lost"] is None


@pytest.mark.parametrize(("precision", "target"), [("int8", "sm86"), ("fp8", "sm89")])
def test_engines_with_weights_only_keep_them_in_eight_bits(
    precision: str,
    target: str,
    config: Callable[..., CalibrationConfig],
    half_bundle: Bundle,
    tmp_path: Path,
) -> None:
    """The plan holds them as they are stored, also beside layers that are quantised."""
    for name, chosen in (("all", {"weight_only": ("pi3_decoder",)}), ("some", SOME)):
        calibrate(config(tmp_path / name, networks=("pi3_decoder",), precision=precision, **chosen))
    half = built(Path(shutil.copytree(half_bundle.root, tmp_path / "half")), "pi3_decoder", target)
    for name in ("all", "some"):
        record = built(tmp_path / name, "pi3_decoder", target)
        assert record.attention["expected"] == record.attention["fused"] == 4
        assert record.weight_bytes < 0.65 * half.weight_bytes


def test_fp8_is_refused_for_gpus_without_it(fp8_copy: Path) -> None:
    """Before anything is built, with the way out."""
    with pytest.raises(
        GmosError, match=r"--target sm86: it has no float8, .* or calibrate with --precision int8"
    ):
        built(fp8_copy, "pi3_decoder", "sm86", "sm89")
