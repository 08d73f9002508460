"""Which engines may run: every refusal says what differs and how to build the engine again."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.comparison.parity import OutputDifference
from gmos_deploy.runtime.tensorrt.library import TensorRT
from gmos_deploy.runtime.tensorrt.log import LibraryLog
from gmos_deploy.runtime.tensorrt.record import (
    DeviceIdentity,
    EngineCheck,
    EngineRecord,
    engine_directory,
    host_platform,
    plan_path,
    record_path,
    write_engine_record,
)
from gmos_deploy.runtime.tensorrt.trust import (
    build_command,
    check_record,
    find_record,
    misfit,
    plan_difference,
    verified_plan,
)

PLAN = b"a serialised engine"
HASHES = {"dino.onnx": "ab" * 32, "dino.weights": "cd" * 32}
ORIN = DeviceIdentity(name="Orin", compute_capability=(8, 7))
RTX_3090 = DeviceIdentity(name="NVIDIA GeForce RTX 3090", compute_capability=(8, 6))
RTX_3060 = DeviceIdentity(name="NVIDIA GeForce RTX 3060", compute_capability=(8, 6))
H100 = DeviceIdentity(name="NVIDIA H100", compute_capability=(9, 0))


def tensorrt(version: str) -> TensorRT:
    numbers = tuple(int(part) for part in version.split(".")[:3])
    return TensorRT(
        flavour="tensorrt",
        full_version=version,
        version=cast(tuple[int, int, int], numbers),
        module=None,
        logger=None,
        log=LibraryLog(),
    )


def tensorrt_rtx(version: str = "1.7.1.116") -> TensorRT:
    capabilities = SimpleNamespace(__members__={"NONE": 0, "SM75": 1, "SM86": 2, "SM89": 3})
    return replace(
        tensorrt(version), flavour="tensorrt-rtx", module=SimpleNamespace(ComputeCapability=capabilities)
    )


@dataclass
class Place:
    """A bundle of one network, as far as trust looks at it, with one engine."""

    bundle: Bundle
    record: EngineRecord

    @property
    def plan(self) -> Path:
        return plan_path(engine_directory(self.bundle.root, self.record.flavour), "dino")

    def write(self, record: EngineRecord, plan: bytes = PLAN) -> None:
        directory = engine_directory(self.bundle.root, record.flavour)
        write_engine_record(record_path(directory, "dino"), record)
        plan_path(directory, "dino").write_bytes(plan)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An engine of TensorRT 10.3 on an Orin, in a directory whose name needs quoting."""
    root = tmp_path / "my bundle"
    graph = SimpleNamespace(file="dino.onnx", weights=("dino.weights",))
    bundle = SimpleNamespace(
        signed=None,
        root=root,
        networks={"dino": SimpleNamespace(graphs={"standard": graph})},
        files=SimpleNamespace(sha256=HASHES.__getitem__),
        vouches_for=lambda path, content: False,
    )
    record = EngineRecord(
        network="dino",
        flavour="tensorrt",
        library_version="10.3.0.26",
        sources=dict(HASHES),
        plan_bytes=len(PLAN),
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
        precision="fp16",
        device=ORIN,
        targets=(),
        platform=host_platform(),
        profiles=(),
        tensors=(),
        options={"version_compatible": False, "hardware_compatible": None},
        activation_bytes=(),
        weight_bytes=0,
        attention={},
        built="2026-11-22T20:00:00+00:00",
        seconds=1.0,
    )
    place = Place(bundle=cast(Bundle, bundle), record=record)
    place.write(record)
    return place


def ahead(record: EngineRecord, *targets: str) -> EngineRecord:
    return replace(record, flavour="tensorrt-rtx", library_version="1.7.1.116", device=None, targets=targets)


def test_an_engine_that_fits_is_given_with_its_record(place: Place) -> None:
    """As a buffer that a library can read."""
    record, plan = verified_plan(place.bundle, "dino", tensorrt("10.3.0.26"), ORIN)
    assert record == place.record
    assert plan == PLAN


def test_an_engine_for_this_target_is_given(place: Place) -> None:
    """One of several that it was built for ahead of time."""
    place.write(ahead(place.record, "sm86", "sm89"))
    assert verified_plan(place.bundle, "dino", tensorrt_rtx(), RTX_3090)[1] == PLAN


def test_the_build_command_can_be_pasted(tmp_path: Path) -> None:
    """Names with spaces are quoted."""
    command = build_command(tmp_path / "my bundle", "tensorrt-rtx", ["dino"], targets=["sm86", "sm89"])
    words = shlex.split(command)
    assert words[:4] == ["gmos-export", "build-engines", "--bundle", str(tmp_path / "my bundle")]
    assert words[4:] == ["--backend", "tensorrt-rtx", "--target", "sm86,sm89", "--networks", "dino"]


WRONG = EngineCheck(
    date="2026-11-22",
    device="Orin (sm87)",
    against="ONNX Runtime 1.32",
    passed=False,
    outputs=(
        OutputDifference(
            target="engine",
            lengths={},
            output="tokens",
            finite=True,
            max_abs=9.0,
            mean_abs=1.0,
            relative=1.0,
            largest=9.0,
            cosine=0.1,
            changed=0.0,
        ),
    ),
)

Change = Callable[[EngineRecord], EngineRecord]

REFUSED: list[tuple[str, Change, str, DeviceIdentity, str]] = [
    (
        "another graph",
        lambda r: replace(r, sources={**HASHES, "dino.onnx": "00" * 32}),
        "10.3.0.26",
        ORIN,
        r"it was built from another dino\.onnx than the bundle has",
    ),
    (
        "other weights",
        lambda r: replace(r, sources={"dino.onnx": HASHES["dino.onnx"], "old.weights": "00"}),
        "10.3.0.26",
        ORIN,
        r"built from another dino\.weights and another old\.weights than",
    ),
    (
        "another version",
        lambda r: r,
        "10.7.0.23",
        ORIN,
        r"it was built with TensorRT 10\.3\.0\.26, and TensorRT 10\.7\.0\.23 is installed",
    ),
    (
        "another processor",
        lambda r: replace(r, platform="linux-riscv64"),
        "10.3.0.26",
        ORIN,
        r"it was built for linux-riscv64, and this is ",
    ),
    (
        "another capability",
        lambda r: r,
        "10.3.0.26",
        RTX_3090,
        r"it was built on Orin \(sm87\), and this GPU is NVIDIA GeForce RTX 3090 \(sm86\)",
    ),
    (
        "another model of the same capability",
        lambda r: replace(r, device=RTX_3060),
        "10.3.0.26",
        RTX_3090,
        r"built on NVIDIA GeForce RTX 3060 \(sm86\), and this GPU is NVIDIA GeForce RTX 3090",
    ),
    (
        "another capability than the same",
        lambda r: replace(r, options={"hardware_compatible": "same-capability"}),
        "10.3.0.26",
        RTX_3090,
        r"it was built on Orin \(sm87\) as same-capability, and this GPU is",
    ),
    (
        "wrong results",
        lambda r: replace(r, check=WRONG),
        "10.3.0.26",
        ORIN,
        r"its results were wrong in tokens when it was compared with ONNX Runtime 1\.32 on Orin \(sm87\)",
    ),
]


@pytest.mark.parametrize(
    ("change", "version", "device", "message"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_an_engine_that_does_not_fit_is_refused(
    change: Change, version: str, device: DeviceIdentity, message: str, place: Place
) -> None:
    """In one line that ends with the command which builds it again."""
    place.write(change(place.record))
    command = build_command(place.bundle.root, "tensorrt", ["dino"])
    with pytest.raises(GmosError, match=message) as refusal:
        verified_plan(place.bundle, "dino", tensorrt(version), device)
    text = str(refusal.value)
    assert text.startswith(f"{place.plan} cannot run: ")
    assert text.endswith(f"; build it again: {command}")
    assert "\n" not in text


def test_a_target_that_is_missing_is_added_to_the_command(place: Place) -> None:
    """Those that the engine has stay."""
    record = ahead(place.record, "sm89")
    with pytest.raises(GmosError, match=r"built for sm89, and this GPU is .*3090 .*--target sm89,sm86"):
        check_record(record, bundle=place.bundle, library=tensorrt_rtx(), device=RTX_3090)


def test_a_gpu_that_tensorrt_rtx_does_not_know_is_sent_elsewhere(place: Place) -> None:
    """No command could build for it."""
    record = ahead(place.record, "sm89")
    with pytest.raises(GmosError, match=r"no kernels for NVIDIA H100 \(sm90\), .*use --backend tensorrt$"):
        check_record(record, bundle=place.bundle, library=tensorrt_rtx(), device=H100)


@pytest.mark.parametrize(
    ("options", "version", "device"),
    [
        ({"version_compatible": True}, "10.7.0.23", ORIN),
        ({"version_compatible": True}, "11.4.1.12", ORIN),
        ({"hardware_compatible": "ampere-plus"}, "10.3.0.26", H100),
        ({"hardware_compatible": "same-capability"}, "10.3.0.26", replace(ORIN, name="Orin Nano")),
    ],
)
def test_compatible_engines_run_on_more(
    options: dict[str, Any], version: str, device: DeviceIdentity, place: Place
) -> None:
    """As far as they were built to."""
    record = replace(place.record, options=options)
    assert misfit(record, bundle=place.bundle, library=tensorrt(version), device=device) is None


def test_a_version_compatible_engine_does_not_run_on_an_older_library(place: Place) -> None:
    """Compatibility goes forward only."""
    record = replace(place.record, options={"version_compatible": True}, library_version="10.13.0")
    found = misfit(record, bundle=place.bundle, library=tensorrt("10.3.0.26"), device=ORIN)
    assert found == "it was built with TensorRT 10.13.0, and TensorRT 10.3.0.26 is installed"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (PLAN[:-1], r"has 18 bytes, expected 19; do not trust it, build it again: gmos-export"),
        (b"", r"has 0 bytes, expected 19; do not trust it"),
        (b"A" + PLAN[1:], r"has changed since it was built; do not trust it, build it again: gmos-export"),
    ],
)
def test_a_damaged_plan_is_refused_before_anything_loads_it(plan: bytes, message: str, place: Place) -> None:
    """Cut short, empty, or one bit different."""
    place.write(place.record, plan)
    with pytest.raises(GmosError, match=message):
        verified_plan(place.bundle, "dino", tensorrt("10.3.0.26"), ORIN)
    assert plan_difference(place.plan, place.record, content=True) is not None


def test_a_missing_plan_is_refused(place: Place) -> None:
    """Its record alone is nothing."""
    place.plan.unlink()
    with pytest.raises(GmosError, match=r"cannot be read \(No such file or directory\); do not trust it"):
        verified_plan(place.bundle, "dino", tensorrt("10.3.0.26"), ORIN)


def test_a_missing_engine_is_refused_with_the_command(place: Place) -> None:
    """Nothing was built for that library."""
    with pytest.raises(GmosError, match=r"has no TensorRT-RTX engine of dino .*--backend tensorrt-rtx"):
        find_record(place.bundle, "dino", "tensorrt-rtx")


def test_a_record_of_another_engine_is_refused(place: Place) -> None:
    """A file that was copied to another name."""
    place.write(replace(place.record, network="sam2_encoder"))
    with pytest.raises(GmosError, match=r"is of sam2_encoder for tensorrt, expected dino for tensorrt"):
        find_record(place.bundle, "dino", "tensorrt")


def test_a_broken_record_is_refused_with_the_command(place: Place) -> None:
    """The reader's message and the command."""
    record_path(engine_directory(place.bundle.root, "tensorrt"), "dino").write_text("{")
    with pytest.raises(GmosError, match=r"is not JSON .*: gmos-export build-engines --bundle"):
        find_record(place.bundle, "dino", "tensorrt")
