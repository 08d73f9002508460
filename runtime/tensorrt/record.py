"""The record beside every engine: what it was built from, with and for, and whether its results were right."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from ...errors import GmosError
from ..bundle.engine_files import CHECK_SUFFIX, PLAN_SUFFIX, PURPOSES, RECORD_SUFFIX, WAITING_SUFFIX
from ..bundle.user_key import json_doubt, sealed_json
from ..comparison.parity import OutputDifference
from ..contract import NetworkName
from ..files.atomic_file import replaced_at_end
from ..files.regular_file import read_bounded
from ..files.typed_json import MOST_BYTES, Whole, parse_json, typed
from ..shapes import Axes, bound_lengths
from .library import Flavour

FORMAT = 1
"""Raised when a reader of the old one would misunderstand the new; added fields do not raise it."""

ADVICE = "build the engine again"

ON_SEEDED, ON_RECORDED = "engine", "engine on recorded inputs"
"""What `OutputDifference.target` says in the check of an engine."""

Profile = Mapping[str, "ProfileRange"]

Place = Literal["min", "opt", "max"]
PLACES: tuple[Place, ...] = ("min", "opt", "max")
"""Of a range: least, usual, greatest."""


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


def profile_lengths(tensors: Iterable[Axes], profile: Profile) -> dict[Place, dict[str, int]]:
    """The lengths of a shape profile by axis letter: least, usual and greatest ones of these inputs."""
    inputs = tuple(tensors)
    return {
        place: bound_lengths(inputs, {name: getattr(allowed, place) for name, allowed in profile.items()})
        for place in PLACES
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedShape:
    """Lengths by axis letter that the build was given for one place of the shape profiles."""

    place: Place
    lengths: Mapping[str, Whole]


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
    """The comparison of an engine on a device with a trusted computation `against`."""

    date: str
    device: str
    against: str
    passed: bool
    outputs: tuple[OutputDifference, ...] = ()

    @property
    def inputs(self) -> str:
        """What it was compared on, in words."""
        recorded = any(found.target == ON_RECORDED for found in self.outputs)
        return "seeded and recorded inputs" if recorded else "seeded inputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """What is known about an engine.

    `sources` are the SHA-256 of the graph and its weights by file name. Engines built ahead of time name
    `targets`, all others the `device` that they were built on. `activation_bytes` is the memory that a
    context needs at the greatest lengths of each profile; `attention` is what the plan says about its
    fused attention. `options` are those of the build as far as they decide what an engine is, `shapes` those
    that it was given: later builds keep them. `unvouched` says why nobody vouches for it, and is not in the file.
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
    shapes: tuple[AskedShape, ...] = ()
    format: int = FORMAT
    unvouched: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeptCheck:
    """A comparison as it is kept beside a record, and the plan that it is of."""

    plan_sha256: str
    check: EngineCheck


Vouches = Callable[[Path, bytes], bool]
"""Whether somebody whom the user trusts vouches for the content of a file: `Bundle.vouches_for`."""


def nobody(_: Path, __: bytes) -> bool:
    """A `Vouches` of users who trust their own machine alone."""
    return False


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


def check_path(record: Path) -> Path:
    """The comparison of an engine, beside its record."""
    return record.with_name(record.name.removesuffix(RECORD_SUFFIX) + CHECK_SUFFIX)


def waiting_plan(plan: Path, sha256: str) -> Path:
    """Where a new plan waits for its record; with that it is the engine, and goes to its own place."""
    return plan.with_name(f"{plan.name}.{sha256[:16]}{WAITING_SUFFIX}")


def write_engine_record(path: Path, record: EngineRecord) -> None:
    """Write the record of an engine that was built here, with this user's seal; a reader sees the old or the new one.

    Raises:
        GmosError: it cannot be written, or this user's key cannot be used.
    """
    fields = msgspec.to_builtins(record)
    del fields["unvouched"]
    text = sealed_json(fields, PURPOSES[RECORD_SUFFIX])
    with replaced_at_end(path) as temporary:
        temporary.write_bytes(text)


def write_engine_check(path: Path, record: EngineRecord, check: EngineCheck) -> None:
    """Write the comparison of an engine, made here, beside its record, which stays as whoever built it wrote it.

    That an engine of this machine's is wrong goes into its record, too, under the seal: whoever may write into the
    bundle could remove the comparison.

    Raises:
        GmosError: as `write_engine_record`.
    """
    own = _own_record(path)
    if (
        own is not None
        and own.plan_sha256 == record.plan_sha256
        and (own.check, check.passed) != (None, True)
    ):
        write_engine_record(path, replace(own, check=None if check.passed else check))
    text = sealed_json(_KeptCheck(plan_sha256=record.plan_sha256, check=check), PURPOSES[CHECK_SUFFIX])
    with replaced_at_end(check_path(path)) as temporary:
        temporary.write_bytes(text)


def _own_record(path: Path) -> EngineRecord | None:
    """A record as it was written, if that was this user's machine."""
    try:
        top, doubt = _read(path, RECORD_SUFFIX, nobody)
        return (
            None if doubt is not None else typed(_with_nan(top), EngineRecord, where=path.name, advice=ADVICE)
        )
    except GmosError:
        return None


def read_engine_record(path: Path, vouches: Vouches = nobody) -> EngineRecord:
    """Read the record of an engine with its comparison; nothing in it is executed.

    Its `unvouched` is None if this user's machine has built the engine, or `vouches` says so of the record.

    Raises:
        GmosError: there is none, it is of another format, or a field is not as expected.
    """
    top, doubt = _read(path, RECORD_SUFFIX, vouches)
    found = typed(top, _Format, where=path.name, advice=ADVICE).format
    if found != FORMAT:
        raise GmosError(
            f"{path} has format {found}, this gmos-deploy reads format {FORMAT}; use the version that wrote it, or "
            f"{ADVICE}"
        )
    top["unvouched"] = doubt
    record = typed(_with_nan(top), EngineRecord, where=path.name, advice=ADVICE)
    beside = check_path(path)
    if not beside.is_file():
        return record
    top, doubt = _read(beside, CHECK_SUFFIX, vouches)
    kept = typed(_with_nan(top), _KeptCheck, where=beside.name, advice=ADVICE)
    # That it is right counts if somebody vouches for that; that it is wrong does anyway.
    if kept.plan_sha256 == record.plan_sha256 and (doubt is None or not kept.check.passed):
        return replace(record, check=kept.check)
    return record


def _read(path: Path, ending: str, vouches: Vouches) -> tuple[dict[str, Any], str | None]:
    """A JSON file of an engine, and why nobody vouches for it."""
    try:
        text = read_bounded(path, MOST_BYTES)
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); {ADVICE}") from error
    top = typed(parse_json(text, path, ADVICE), dict[str, Any], where=path.name, advice=ADVICE)
    return top, None if vouches(path, text) else json_doubt(top, PURPOSES[ending])


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
