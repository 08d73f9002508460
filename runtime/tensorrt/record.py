"""The record beside every engine: what it was built from, with and for, and whether its results were right."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import GmosError
from ..atomic_file import replaced_at_end
from ..comparison.parity import OutputDifference
from ..contract import NetworkName
from ..typed_json import Whole, json_bytes, parse_json, typed
from .library import Flavour

FORMAT = 1
"""Raised when a reader of the old one would misunderstand the new; added fields do not raise it."""

PLAN_SUFFIX, RECORD_SUFFIX = ".engine", ".engine.json"

ADVICE = "build the engine again with gmos-export build-engines"

Profile = Mapping[str, "ProfileRange"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceIdentity:
    """A GPU: the driver's name for it and its compute capability."""

    name: str
    compute_capability: tuple[Whole, Whole]

    @property
    def target(self) -> str:
        """The capability as `sm86`."""
        major, minor = self.compute_capability
        return f"sm{major}{minor}"

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRange:
    """Least, usual and greatest shape of an input; of a host input the values instead."""

    min: tuple[Whole, ...]
    opt: tuple[Whole, ...]
    max: tuple[Whole, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTensor:
    """An input or output of an engine; `shape` has -1 where it varies, `host` tensors are read by the host."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    mode: Literal["input", "output"]
    host: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCheck:
    """The comparison of an engine on a device with a trusted computation `against`, on seeded inputs."""

    date: str
    device: str
    against: str
    passed: bool
    outputs: tuple[OutputDifference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """What is known about an engine.

    `sources` are the SHA-256 of the graph and its weights by file name. Engines built ahead of time name
    `targets`, all others the `device` that they were built on. `activation_bytes` is the memory that a
    context needs at the greatest lengths of each profile; `attention` is what the plan says about its
    fused attention. `options` are those of the build as far as they decide what an engine is.
    """

    network: NetworkName
    flavour: Flavour
    library_version: str
    sources: Mapping[str, str]
    plan_bytes: Whole
    plan_sha256: str
    precision: str
    device: DeviceIdentity | None
    targets: tuple[str, ...]
    platform: str
    profiles: tuple[Profile, ...]
    tensors: tuple[EngineTensor, ...]
    options: Mapping[str, Any]
    activation_bytes: tuple[Whole, ...]
    weight_bytes: Whole
    attention: Mapping[str, Any]
    built: str
    seconds: float
    check: EngineCheck | None = None
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    format: Whole


def host_platform() -> str:
    """Operating system and processor, as `linux-x86_64`: a plan runs on the same only."""
    return f"{platform.system()}-{platform.machine()}".lower()


def engine_directory(bundle_root: Path, flavour: Flavour) -> Path:
    """Where the engines of a bundle are."""
    return bundle_root / "engines" / flavour


def plan_path(directory: Path, network: NetworkName) -> Path:
    """The engine itself."""
    return directory / f"{network}{PLAN_SUFFIX}"


def record_path(directory: Path, network: NetworkName) -> Path:
    """The record beside it."""
    return directory / f"{network}{RECORD_SUFFIX}"


def waiting_plan(plan: Path, sha256: str) -> Path:
    """Where a new plan waits for its record; with that it is the engine, and goes to its own place."""
    return plan.with_name(f"{plan.name}.{sha256[:16]}.next")


def write_engine_record(path: Path, record: EngineRecord) -> None:
    """Write a record; a reader sees the old one or the new one.

    Raises:
        GmosError: it cannot be written.
    """
    text = json_bytes(record)
    with replaced_at_end(path) as temporary:
        temporary.write_bytes(text)


def read_engine_record(path: Path) -> EngineRecord:
    """Read what `write_engine_record` wrote; nothing in it is executed.

    Raises:
        GmosError: there is none, it is of another format, or a field is not as expected.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); {ADVICE}") from error
    top = parse_json(text, path, ADVICE)
    found = typed(top, _Format, where=path.name, advice=ADVICE).format
    if found != FORMAT:
        raise GmosError(
            f"{path} has format {found}, this gmos-deploy reads format {FORMAT}; use the version that wrote it, or "
            f"{ADVICE}"
        )
    return typed(_with_nan(top), EngineRecord, where=path.name, advice=ADVICE)


def _with_nan(top: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity, which a wrong engine's errors can be: there they were written as null."""
    check = top.get("check")
    if not isinstance(check, dict) or not isinstance(check.get("outputs"), list):
        return top
    outputs = [
        {name: math.nan if value is None else value for name, value in output.items()}
        if isinstance(output, dict)
        else output
        for output in check["outputs"]
    ]
    return {**top, "check": {**check, "outputs": outputs}}
