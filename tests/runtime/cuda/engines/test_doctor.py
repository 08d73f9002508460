"""`gmos-doctor --bundle`: which engines fit this machine, and which were never checked on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.evaluation.doctor import bundle_findings as room
from gmos_deploy.evaluation.doctor.bundle_findings import bundle_findings
from gmos_deploy.evaluation.doctor.finding import Finding
from gmos_deploy.runtime.tensorrt.record import (
    DeviceIdentity,
    EngineCheck,
    engine_directory,
    plan_path,
    record_path,
)

GPU = DeviceIdentity(name="Fake GPU", compute_capability=(8, 7))

Found = Callable[..., dict[str, Finding]]


@pytest.fixture
def found(world: Any, monkeypatch: pytest.MonkeyPatch) -> Found:
    """The findings on the world's bundle, with its library."""
    monkeypatch.setattr(room, "load_tensorrt", lambda flavour: world.library)

    def look(device: DeviceIdentity | None = GPU, **options: Any) -> dict[str, Finding]:
        findings = bundle_findings(world.bundle.root, device, **options)
        return {finding.name: finding for finding in findings}

    return look


def check(**changes: Any) -> EngineCheck:
    return replace(
        EngineCheck(date="2026-11-22", device=GPU.name, against="ONNX Runtime", passed=True), **changes
    )


def test_engines_that_fit_and_were_never_checked(world: Any, found: Found) -> None:
    """The command that checks them is named."""
    answers = found(index=1)
    count = len(world.bundle.networks)
    assert answers["files"].state == "ok"
    assert answers["TensorRT engines"].found == f"{count} of {count} fit Fake GPU (sm87)"
    checks = answers["tensorrt checks"]
    assert checks.state == "missing"
    assert checks.mend == (
        f"gmos-export check-engines --bundle {world.bundle.root} --backend tensorrt --device 1"
    )


def test_engines_that_were_checked_here(world: Any, found: Found) -> None:
    """On another GPU of the same kind's name does not count."""
    for name in world.bundle.networks:
        world.write_engine(name, check=check())
    assert found()["tensorrt checks"].state == "ok"
    world.write_engine("dino", check=check(device="Another GPU"))
    assert found()["tensorrt checks"].found == "never compared on this GPU: dino"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"library_version": "10.13.0"},
            "it was built with TensorRT 10.13.0, and TensorRT 10.3.0 is installed",
        ),
        (
            {"device": DeviceIdentity(name="RTX 3060", compute_capability=(8, 6))},
            "it was built on RTX 3060 (sm86)",
        ),
        ({"check": check(passed=False)}, "its results were wrong"),
        ({"plan_sha256": "0" * 64}, "its file has changed since it was built"),
        ({"plan_bytes": 3}, "its file has"),
    ],
)
def test_an_engine_that_does_not_fit(fields: dict[str, Any], words: str, world: Any, found: Found) -> None:
    """What differs, and the command that builds it again; the others are as they were."""
    world.write_engine("dino", **fields)
    answers = found()
    assert answers["tensorrt dino"].state == "wrong"
    assert words in answers["tensorrt dino"].found
    assert answers["tensorrt dino"].mend.endswith("--backend tensorrt --networks dino")
    assert answers["TensorRT engines"].state == "ok"


def test_missing_engines_and_records(world: Any, found: Found) -> None:
    """Some of them."""
    directory = engine_directory(world.bundle.root, "tensorrt")
    record_path(directory, "dino").unlink()
    record_path(directory, "pi3_decoder").write_text("{")
    answers = found()
    assert answers["TensorRT engines"].state == "ok"
    assert answers["tensorrt pi3_decoder"].state == "wrong"
    plan_path(directory, "proposer").unlink()
    assert "cannot be read" in found()["tensorrt proposer"].found


def test_new_engines_are_for_the_cards_of_the_others_too(
    make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines that are built ahead: the command names their targets, and the card that is here."""
    world = make_world(flavour="tensorrt-rtx")
    monkeypatch.setattr(room, "load_tensorrt", lambda flavour: world.library)
    record_path(engine_directory(world.bundle.root, "tensorrt-rtx"), "dino").unlink()
    ada = DeviceIdentity(name="RTX 4090", compute_capability=(8, 9))
    found = {finding.name: finding for finding in bundle_findings(world.bundle.root, ada)}
    command = found["TensorRT-RTX engines"].mend
    assert command.endswith("--backend tensorrt-rtx --target sm87,sm89 --networks dino")
    assert found["tensorrt-rtx proposer"].mend.endswith("--target sm87,sm89 --networks proposer")
    assert "built for sm87, and this GPU is RTX 4090 (sm89)" in found["tensorrt-rtx proposer"].found


def test_without_a_gpu_the_rest_is_still_known(found: Found) -> None:
    """And without the library nothing is."""
    assert "no GPU to run them on" in found(None)["TensorRT engines"].found
    assert found(loadable=())["TensorRT engines"].found == (
        "whether they fit is not known, as TensorRT does not load here"
    )


def test_a_damaged_bundle_is_a_finding(world: Any, found: Found) -> None:
    """A file that is not there, and a manifest that was cut short: what to do is in its words."""
    (world.bundle.root / "dino.onnx").unlink()
    answer = found()["files"]
    assert (answer.group, answer.state) == ("Bundle", "wrong")
    assert answer.found.endswith("lacks its file dino.onnx; copy the bundle again")
    manifest = world.bundle.root / "bundle.json"
    manifest.write_bytes(manifest.read_bytes()[:1000])
    (answer,) = found().values()
    assert answer.state == "wrong"
    assert "is not JSON" in answer.found
    assert answer.found.endswith("copy the bundle again")


def test_a_bundle_without_engines(world: Any, found: Found) -> None:
    """ONNX Runtime needs none; a file that has changed is told."""
    for file in engine_directory(world.bundle.root, "tensorrt").iterdir():
        file.unlink()
    Path(world.bundle.root / "dino.onnx").write_bytes(b"GRAPH of dino")
    answers = found()
    assert answers["engines"].state == "missing"
    assert answers["files"].state == "wrong"
    assert "dino.onnx has changed since the export" in answers["files"].found
