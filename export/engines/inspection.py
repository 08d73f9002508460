"""The engines of a bundle as their records tell of them: what they take, compute in and run on; are they right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import GmosError
from ...evaluation.report.document import Block, Column, Remarks, Section, Table, Text
from ...evaluation.report.files import plain
from ...runtime.bundle.manifest import Bundle
from ...runtime.contract import NetworkName
from ...runtime.precision import PRECISIONS
from ...runtime.shapes import GRID_AXES, PI3_AXES, VIDEO_AXES
from ...runtime.tensorrt.choice import missing_engines
from ...runtime.tensorrt.library import FLAVOURS, NAMES, Flavour
from ...runtime.tensorrt.record import PLACES, EngineRecord, Profile, profile_lengths
from ...runtime.tensorrt.trust import find_record, graph_sources

COUNTS = {"B": "frames", "O": "objects", "R": "R", "P": "P"}
"""Axes along which calls grow, and what their columns are called."""

Limits = Mapping[str, tuple[int, int, int]]

Records = dict[NetworkName, EngineRecord | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A shape profile of an engine."""

    record: EngineRecord
    limits: Limits
    current: bool

    def most(self, *axes: str) -> str:
        """The greatest lengths along axes, joined by x; empty where it has none of them."""
        return "x".join(str(self.limits[axis][2]) for axis in axes if axis in self.limits)


def engine_facts(bundle: Bundle) -> dict[str, Any]:
    """All engines as JSON values: by library and network; what cannot be read by its error."""
    return {
        flavour: {
            name: record if isinstance(record, str) else _facts(bundle, record)
            for name, record in records.items()
        }
        for flavour, records in _all_records(bundle).items()
    }


def engine_sections(bundle: Bundle) -> list[Section]:
    """A section for each library with engines: a row a shape profile."""
    return [_section(bundle, flavour, records) for flavour, records in _all_records(bundle).items()]


def sums_of(record: EngineRecord) -> str:
    """What long sums of products are in, in words."""
    if PRECISIONS[record.precision].dtype != "float16":
        return "float32"
    if record.options.get("half_sums", True):
        # Engines of before the option leave it to the library too.
        return "the library's choice"
    return "long ones float32"


def checked(record: EngineRecord) -> str:
    """Whether an engine was compared, and what came of it, in words."""
    check = record.check
    if check is None:
        return "never"
    return f"{'right' if check.passed else 'WRONG'} on {check.device}, {check.date[:10]}, {check.inputs}"


def _all_records(bundle: Bundle) -> dict[Flavour, Records]:
    """Of every library that there are engines of."""
    return {flavour: records for flavour in FLAVOURS if (records := _records(bundle, flavour))}


def _records(bundle: Bundle, flavour: Flavour) -> Records:
    """Records of the engines that there are, or why one cannot be read."""
    missing, found = missing_engines(bundle, flavour), Records()
    for name in bundle.networks:
        if name not in missing:
            try:
                found[name] = find_record(bundle, name, flavour)
            except GmosError as error:
                found[name] = str(error)
    return found


def _limits(bundle: Bundle, record: EngineRecord, profile: Profile) -> Limits:
    known = profile_lengths(bundle.networks[record.network].standard_inputs, profile)
    least, usual, greatest = (known[place] for place in PLACES)
    return {
        axis: (least[axis], usual[axis], length) for axis, length in greatest.items() if axis not in PI3_AXES
    }


def _facts(bundle: Bundle, record: EngineRecord) -> dict[str, Any]:
    """The record, but with lengths by axis for the shapes of its inputs."""
    return {
        **plain(record, omit=("network", "flavour", "sources", "tensors", "profiles", "check")),
        "sums": sums_of(record),
        "profiles": [_limits(bundle, record, profile) for profile in record.profiles],
        "of_this_bundle": _is_current(bundle, record),
        "check": None
        if record.check is None
        else {**plain(record.check, omit=("outputs",)), "inputs": record.check.inputs},
    }


def _is_current(bundle: Bundle, record: EngineRecord) -> bool:
    return graph_sources(bundle, record.network) == record.sources


def _section(bundle: Bundle, flavour: Flavour, records: Records) -> Section:
    rows = [
        _Row(
            record=record,
            limits=_limits(bundle, record, profile),
            current=_is_current(bundle, record),
        )
        for record in records.values()
        if not isinstance(record, str)
        for profile in record.profiles
    ]
    columns: list[Column[_Row]] = [
        Column("network", lambda row: row.record.network),
        *(
            Column(name, lambda row, axis=axis: row.limits.get(axis, (0, 0, None))[2], "d")  # type: ignore[misc]
            for axis, name in COUNTS.items()
        ),
        Column("patches", lambda row: row.most(*GRID_AXES), shown="room"),
        Column("video", lambda row: row.most(*reversed(VIDEO_AXES)), shown="room"),
        Column("precision", lambda row: row.record.precision),
        Column("sums", lambda row: sums_of(row.record)),
        Column("for", lambda row: ", ".join(row.record.targets) or str(row.record.device)),
        Column("compared", lambda row: checked(row.record) if row.current else "is of another bundle"),
    ]
    missing = [name for name in bundle.networks if name not in records]
    lines = [record for record in records.values() if isinstance(record, str)]
    lines += [f"there are none of {', '.join(missing)}"] if missing else []
    blocks: list[Block] = [
        Table(columns=columns, entries=rows),
        Text(
            "Greatest lengths of each shape profile: frames or windows, objects, memories (R) and pointers (P) of "
            "an object, Pi3's patches, video in pixels.",
            everywhere=True,
        ),
    ]
    return Section(f"{NAMES[flavour]} engines", [*blocks, *([Remarks(lines)] if lines else [])])
