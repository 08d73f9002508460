"""The record beside an engine: what is written is read, and what is not a record is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.comparison.parity import OutputDifference
from gmos_deploy.runtime.tensorrt.record import (
    DeviceIdentity,
    EngineCheck,
    EngineRecord,
    EngineTensor,
    ProfileRange,
    engine_directory,
    host_platform,
    plan_path,
    read_engine_record,
    record_path,
    write_engine_record,
)

RECORD = EngineRecord(
    network="proposal_labels",
    flavour="tensorrt",
    library_version="10.3.0.26",
    sources={"proposal_labels.onnx": "ab" * 32},
    plan_bytes=7,
    plan_sha256="cd" * 32,
    precision="fp32",
    device=DeviceIdentity(name="Orin", compute_capability=(8, 7)),
    targets=(),
    platform="linux-aarch64",
    profiles=(
        {
            "mask_logits": ProfileRange(min=(1, 20, 32, 32), opt=(4, 20, 32, 32), max=(8, 20, 32, 32)),
            "video_hw": ProfileRange(min=(64, 64), opt=(720, 1280), max=(2160, 4096)),
        },
    ),
    tensors=(
        EngineTensor(name="video_hw", dtype="int64", shape=(2,), mode="input", host=True),
        EngineTensor(name="labels", dtype="uint8", shape=(-1, -1, -1), mode="output"),
    ),
    options={"workspace_mib": None, "version_compatible": False},
    activation_bytes=(1024,),
    weight_bytes=0,
    attention={"expected": 0, "fused": 0, "sums": [], "lost": None},
    built="2026-11-22T20:00:00+00:00",
    seconds=1.5,
)

DIFFERENCE = OutputDifference(
    target="engine",
    lengths={"B": 2},
    output="labels",
    finite=True,
    max_abs=1.0,
    mean_abs=0.5,
    relative=0.0,
    largest=0.0,
    cosine=1.0,
    changed=0.25,
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """With a device, and ahead of time with targets and a check."""
    path = tmp_path / "a.engine.json"
    write_engine_record(path, RECORD)
    assert read_engine_record(path) == RECORD
    check = EngineCheck(
        date="2026-11-22", device="Orin (sm87)", against="ONNX Runtime", passed=True, outputs=(DIFFERENCE,)
    )
    ahead = replace(RECORD, flavour="tensorrt-rtx", device=None, targets=("sm86", "sm120"), check=check)
    write_engine_record(path, ahead)
    assert read_engine_record(path) == ahead


def test_errors_that_are_no_numbers_survive(tmp_path: Path) -> None:
    """JSON has none; a wrong engine gives them."""
    wrong = replace(DIFFERENCE, finite=False, max_abs=math.inf, relative=math.nan)
    check = EngineCheck(date="d", device="d", against="a", passed=False, outputs=(wrong,))
    path = tmp_path / "a.engine.json"
    write_engine_record(path, replace(RECORD, check=check))
    json.loads(path.read_text(), parse_constant=pytest.fail)
    read = read_engine_record(path).check
    assert read is not None
    assert not read.passed
    assert math.isnan(read.outputs[0].max_abs)
    assert math.isnan(read.outputs[0].relative)
    assert read.outputs[0].changed == wrong.changed


def test_places(tmp_path: Path) -> None:
    """One directory per library, in the bundle."""
    directory = engine_directory(tmp_path, "tensorrt-rtx")
    assert directory == tmp_path / "engines" / "tensorrt-rtx"
    assert plan_path(directory, "dino").name == "dino.engine"
    assert record_path(directory, "dino").name == "dino.engine.json"
    assert host_platform() == host_platform().lower()
    assert str(RECORD.device) == "Orin (sm87)"


def edited(change: Callable[[dict[str, Any]], None], path: Path) -> Path:
    write_engine_record(path, RECORD)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


BAD: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (
        lambda c: c.update(format=2),
        r"has format 2, this gmos-deploy reads format 1; use the version that wrote",
    ),
    (
        lambda c: c.pop("plan_sha256"),
        r"\.json: object missing required field plan_sha256; build the engine",
    ),
    (lambda c: c.update(flavour="openvino"), r"\.flavour: invalid enum value 'openvino'"),
    (
        lambda c: c["device"].update(compute_capability=[8]),
        r"device\.compute_capability: expected array of length 2",
    ),
    (lambda c: c["tensors"][0].update(mode="both"), r"tensors\[0\]\.mode: invalid enum value 'both'"),
    (lambda c: c.update(activation_bytes=["x"]), r"activation_bytes\[0\]: expected int, got str"),
    (lambda c: c.update(profiles={}), r"profiles: expected array, got object"),
    (
        lambda c: c["profiles"][0]["video_hw"].pop("max"),
        r"profiles\[0\]\[\.\.\.\]: object missing required field max",
    ),
    (lambda c: c.update(check={"date": "d"}), r"check: object missing required field device"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_record_that_is_not_as_expected_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    """With the field, what it is, and what to do."""
    with pytest.raises(GmosError, match=message):
        read_engine_record(edited(change, tmp_path / "a.engine.json"))


def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, or no JSON."""
    path = tmp_path / "a.engine.json"
    with pytest.raises(GmosError, match=r"cannot be read \(No such file.*build the engine again"):
        read_engine_record(path)
    path.write_text("{")
    with pytest.raises(GmosError, match=r"is not JSON .*build the engine again"):
        read_engine_record(path)
    path.write_text("[]")
    with pytest.raises(GmosError, match=r"expected object, got array; build the engine again"):
        read_engine_record(path)


def test_a_failed_write_leaves_the_old_record(tmp_path: Path) -> None:
    """And no temporary file."""
    path = tmp_path / "a.engine.json"
    write_engine_record(path, RECORD)
    with pytest.raises(TypeError):
        write_engine_record(path, replace(RECORD, options={"bad": object()}))
    assert read_engine_record(path) == RECORD
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
