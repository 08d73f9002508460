"""Options of a build: what a library lacks is refused by the option's name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.export.engines.options import BuildOptions, check_precision, settled
from gmos_deploy.runtime.tensorrt.library import TensorRT
from gmos_deploy.runtime.tensorrt.record import DeviceIdentity

ORIN = DeviceIdentity(name="Orin", compute_capability=(8, 7))
RTX_4090 = DeviceIdentity(name="RTX 4090", compute_capability=(8, 9))
H100 = DeviceIdentity(name="H100", compute_capability=(9, 0))


def library(flavour: str = "tensorrt") -> TensorRT:
    """What the options look at; as TensorRT 10.3 and TensorRT-RTX 1.7 answer."""
    rtx = flavour == "tensorrt-rtx"
    found: Any = SimpleNamespace(
        flavour=flavour,
        label="TensorRT-RTX 1.7.1" if rtx else "TensorRT 10.3.0",
        builds_ahead=rtx,
        targets=("sm75", "sm86", "sm89", "sm120") if rtx else (),
        has_version_compatible=not rtx,
        has_timing_cache=not rtx,
        hardware_levels=() if rtx else ("ampere-plus",),
    )
    return cast(TensorRT, found)


def test_defaults_build_for_the_gpu_of_this_machine() -> None:
    """With TensorRT the engine is of the device; with TensorRT-RTX the device is the target."""
    assert settled(BuildOptions(), library(), ORIN) == BuildOptions()
    assert settled(BuildOptions(), library("tensorrt-rtx"), RTX_4090).targets == ("sm89",)


def test_targets_are_put_in_the_library_s_order_once() -> None:
    """So that the same targets make the same engine."""
    asked = BuildOptions(targets=("sm120", "sm86", "sm120"))
    assert settled(asked, library("tensorrt-rtx"), None).targets == ("sm86", "sm120")


LACKING: list[tuple[str, dict[str, Any], DeviceIdentity | None, str]] = [
    (
        "tensorrt-rtx",
        {"version_compatible": True},
        None,
        r"^--version-compatible: TensorRT-RTX 1\.7\.1 cannot build",
    ),
    (
        "tensorrt-rtx",
        {"timing_cache": Path("t")},
        None,
        r"^--timing-cache: TensorRT-RTX 1\.7\.1 times nothing",
    ),
    (
        "tensorrt-rtx",
        {"hardware_compatible": "ampere-plus"},
        None,
        r"^--hardware-compatible ampere-plus: TensorRT-RTX 1\.7\.1 lacks it; name GPUs with --target",
    ),
    (
        "tensorrt",
        {"hardware_compatible": "same-capability"},
        ORIN,
        r"^--hardware-compatible same-capability: TensorRT 10\.3\.0 lacks it; it has ampere-plus",
    ),
    (
        "tensorrt",
        {"targets": ("sm86", "sm89")},
        ORIN,
        r"^--target sm86,sm89: TensorRT 10\.3\.0 builds for the GPU of",
    ),
    (
        "tensorrt",
        {},
        None,
        r"^TensorRT 10\.3\.0 builds on the GPU that will run the engines, and none was found",
    ),
    (
        "tensorrt-rtx",
        {},
        None,
        r"^--target is missing, and no GPU was found .* builds for sm75, sm86, sm89, sm120$",
    ),
    ("tensorrt-rtx", {}, H100, r"^--target sm90: TensorRT-RTX 1\.7\.1 builds for sm75, sm86"),
    (
        "tensorrt-rtx",
        {"targets": ("sm86", "ampere")},
        None,
        r"^--target ampere: TensorRT-RTX 1\.7\.1 builds for",
    ),
]


@pytest.mark.parametrize(("flavour", "options", "device", "message"), LACKING)
def test_what_a_library_lacks_is_refused_by_name(
    flavour: str, options: dict[str, Any], device: DeviceIdentity | None, message: str
) -> None:
    """Before anything is parsed."""
    with pytest.raises(GmosError, match=message):
        settled(BuildOptions(**options), library(flavour), device)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workspace_mib": 0}, r"--workspace 0: expected 1 to 1099511627776 MiB"),
        ({"workspace_mib": 10**20}, r"--workspace 1(0{20}): expected 1 to 1099511627776 MiB"),
        ({"opt_level": 6}, r"--opt-level 6: expected 0 to 5"),
        ({"opt_level": -1}, r"--opt-level -1: expected 0 to 5"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    """With the range."""
    with pytest.raises(GmosError, match=message):
        BuildOptions(**options)


def test_bf16_is_refused_for_turing() -> None:
    """It has no such arithmetic; fp16 does."""
    options = BuildOptions(targets=("sm75", "sm86"))
    check_precision("fp16", options)
    check_precision("bf16", BuildOptions(targets=("sm86",)))
    with pytest.raises(GmosError, match=r"^--target sm75: it has no bfloat16, and the bundle is bf16; leave"):
        check_precision("bf16", options)
