"""The record beside every engine: what it was built from, with and for, and whether its results were right."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from ...errors import GmosError
from ..atomic_file import replaced_at_end
from ..bundle.fields import Fields
from ..contract import NetworkName
from ..parity import OutputDifference
from .library import FLAVOURS, Flavour

FORMAT = 1
"""Raised when a reader of the old one would misunderstand the new; added fields do not raise it."""

PLAN_SUFFIX, RECORD_SUFFIX = ".engine", ".engine.json"

ADVICE = "build the engine again with gmos-export build-engines"

Profile = Mapping[str, "ProfileRange"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceIdentity:
    """A GPU: the driver's name for it and its compute capability."""

    name: str
    compute_capability: tuple[int, int]

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

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


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
    plan_bytes: int
    plan_sha256: str
    precision: str
    device: DeviceIdentity | None
    targets: tuple[str, ...]
    platform: str
    profiles: tuple[Profile, ...]
    tensors: tuple[EngineTensor, ...]
    options: Mapping[str, Any]
    activation_bytes: tuple[int, ...]
    weight_bytes: int
    attention: Mapping[str, Any]
    built: str
    seconds: float
    check: EngineCheck | None = None
    format: int = FORMAT


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


def write_engine_record(path: Path, record: EngineRecord) -> None:
    """Write a record; a reader sees the old one or the new one.

    Raises:
        GmosError: it cannot be written.
    """
    text = json.dumps(_finite(asdict(record)), indent=1, ensure_ascii=False, allow_nan=False)
    with replaced_at_end(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_engine_record(path: Path) -> EngineRecord:
    """Read what `write_engine_record` wrote; nothing in it is executed.

    Raises:
        GmosError: there is none, it is of another format, or a field is not as expected.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise GmosError(f"{path} cannot be read ({error.strerror}); {ADVICE}") from error
    try:
        top = Fields(json.loads(text), path.name, ADVICE)
    except (ValueError, RecursionError) as error:
        raise GmosError(f"{path} is not JSON ({error}); {ADVICE}") from error
    found = top.whole("format")
    if found != FORMAT:
        raise GmosError(
            f"{path} has format {found}, this gmos-deploy reads format {FORMAT}; use the version that wrote it, or "
            f"{ADVICE}"
        )
    if top.text("flavour") not in FLAVOURS:
        raise GmosError(f"{path} is of {top.text('flavour')!r}, expected {' or '.join(FLAVOURS)}; {ADVICE}")
    return EngineRecord(
        network=cast(NetworkName, top.text("network")),
        flavour=cast(Flavour, top.text("flavour")),
        library_version=top.text("library_version"),
        sources={name: str(value) for name, value in top.plain("sources").items()},
        plan_bytes=top.whole("plan_bytes"),
        plan_sha256=top.text("plan_sha256"),
        precision=top.text("precision"),
        device=_device(top),
        targets=top.names("targets"),
        platform=top.text("platform"),
        profiles=tuple(_profile(ranges) for ranges in top.each("profiles")),
        tensors=tuple(_tensor(entry) for entry in top.each("tensors")),
        options=top.plain("options"),
        activation_bytes=_whole_numbers(top, "activation_bytes"),
        weight_bytes=top.whole("weight_bytes"),
        attention=top.plain("attention"),
        built=top.text("built"),
        seconds=top.number("seconds"),
        check=_check(top),
    )


def _device(top: Fields) -> DeviceIdentity | None:
    if top.is_null("device"):
        return None
    entry = top.inner("device")
    capability = _whole_numbers(entry, "compute_capability")
    if len(capability) != 2:
        raise GmosError(f"engine record: compute_capability is {capability}, expected two numbers; {ADVICE}")
    return DeviceIdentity(name=entry.text("name"), compute_capability=(capability[0], capability[1]))


def _profile(ranges: Fields) -> Profile:
    return {
        name: ProfileRange(
            min=_whole_numbers(entry, "min"),
            opt=_whole_numbers(entry, "opt"),
            max=_whole_numbers(entry, "max"),
        )
        for name, entry in ranges.items()
    }


def _tensor(entry: Fields) -> EngineTensor:
    mode = entry.text("mode")
    if mode not in ("input", "output"):
        raise GmosError(f"engine record: tensor mode {mode!r}, expected input or output; {ADVICE}")
    return EngineTensor(
        name=entry.text("name"),
        dtype=entry.text("dtype"),
        shape=_whole_numbers(entry, "shape"),
        mode=cast(Literal["input", "output"], mode),
        host=entry.flag("host"),
    )


def _check(top: Fields) -> EngineCheck | None:
    if top.is_null("check"):
        return None
    entry = top.inner("check")
    return EngineCheck(
        date=entry.text("date"),
        device=entry.text("device"),
        against=entry.text("against"),
        passed=entry.flag("passed"),
        outputs=tuple(_difference(output) for output in entry.each("outputs")),
    )


def _difference(entry: Fields) -> OutputDifference:
    values: dict[str, Any] = {}
    for field in fields(OutputDifference):
        if field.type == "float":
            values[field.name] = math.nan if entry.is_null(field.name) else entry.number(field.name)
        elif field.type == "int":
            # Records of before have no such counts.
            values[field.name] = 0 if entry.is_null(field.name) else entry.whole(field.name)
        elif field.type == "bool":
            values[field.name] = entry.flag(field.name)
        elif field.type == "str":
            values[field.name] = entry.text(field.name)
        else:
            values[field.name] = {axis: int(length) for axis, length in entry.plain(field.name).items()}
    return OutputDifference(**values)


def _whole_numbers(entry: Fields, name: str) -> tuple[int, ...]:
    values = entry.axes(name)
    if not all(isinstance(value, int) for value in values):
        raise GmosError(f"engine record: {name} is {list(values)}, expected whole numbers; {ADVICE}")
    return cast(tuple[int, ...], values)


def _finite(value: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON has no NaN and no infinity, which a wrong engine's errors can be: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value
