"""Result files read again: known by the schema in them, typed, with the fields that a summary shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import GmosError
from ...runtime.bundle.recipe import Recipe
from ...runtime.files.made_from import NOTHING, MadeFrom
from ...runtime.files.regular_file import read_bounded
from ...runtime.files.typed_json import parse_json, typed

Number = float | None
"""A measure; null is what is not defined."""

ADVICE = "make it again with the command that wrote it"

GREATEST_BYTES = 256 << 20
"""Of a result; those of long videos have a few megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Where and by what a result was made; as `report.environment` writes it."""

    date: str = ""
    gmos_deploy: str = ""
    command: str = ""
    system: str = ""
    machine: str = ""
    cpu: str | None = None
    cores: float | None = None
    memory_mib: int | None = None
    gpus: tuple[Mapping[str, Any], ...] = ()
    python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What all results have: `file` that it was read from, what it was made from, and where."""

    file: str = ""
    made_from: MadeFrom = NOTHING
    environment: Made = field(default_factory=Made)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstFrame:
    """The frame that agrees least."""

    name: str
    iou: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskResult:
    """Masks of one video."""

    result: str
    sequence: str
    frames: int
    mean_iou: Number
    worst_frame: WorstFrame
    different_pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOutput:
    """One output of a network."""

    network: str
    output: str
    relative: Number
    cosine: Number
    changed: Number
    max_abs: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Born:
    """Where the difference of a video is born."""

    sequence: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedParity(Saved):
    """Of gmos-parity, any kind."""

    kind: str
    passed: bool
    profile: str
    failures: tuple[str, ...]
    a: str
    b: str
    results: tuple[MaskResult, ...] = ()
    outputs: tuple[NetworkOutput, ...] = ()
    born_in: tuple[Born, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The first side's time over this one's."""

    median: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedNetwork:
    """A network's times in milliseconds."""

    network: str
    lengths: Mapping[str, int]
    side: str
    p50_ms: Number
    p99_ms: Number
    ratio_to_first: Ratio | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRun:
    """A video by one side."""

    side: str
    variant: str
    description: str
    frames: int
    frames_per_second: Number
    load_s: Number
    peak_mib: Number
    device_mib: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedProfile(Saved):
    """Of gmos-profile."""

    video: str
    sides: tuple[str, ...]
    warnings: tuple[str, ...]
    networks: tuple[TimedNetwork, ...]
    runs: tuple[TimedRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What changed a number without being an error."""

    code: str
    count: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSequence:
    """A sequence of a benchmark."""

    name: str
    frames: tuple[str, ...]
    metrics: Mapping[str, Number]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedEvaluation(Saved):
    """Of gmos-eval, any benchmark."""

    evaluator: str
    dataset: str
    overall: Mapping[str, Number]
    notes: tuple[Note, ...]
    sequences: tuple[ScoredSequence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBytes:
    """Of all weights."""

    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedNetwork:
    """A network of a calibration; `layers` compute in eight bits, `weight_only` have their weights in eight bits."""

    name: str
    layers: int
    weight_only: int
    error: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """As the bundle keeps it, in part."""

    precision: str = ""
    ranges: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCalibration(Saved):
    """Of gmos-export calibrate."""

    calibration: Calibration
    weight_bytes: WeightBytes
    networks: tuple[QuantisedNetwork, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A finding of gmos-doctor."""

    group: str
    name: str
    state: str
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedDiagnosis(Saved):
    """Of gmos-doctor."""

    status: int
    findings: tuple[Found, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenItem:
    """What a step of the acceptance run has looked at."""

    name: str
    verdict: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStep:
    """A step of the acceptance run."""

    name: str
    proves: str
    seconds: float
    unfinished: bool
    items: tuple[SeenItem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedAcceptance(Saved):
    """Of benchmarks/acceptance.py."""

    failed: bool
    steps: tuple[SavedStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedFinalist:
    """Levers that were measured in turns with the exact run."""

    levers: Mapping[str, Any]
    speedup: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTuning(Saved):
    """Of gmos-export tune."""

    recipe: Recipe
    finished: bool
    finalists: tuple[SavedFinalist, ...] = ()
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


KINDS: Mapping[str, tuple[str, type[Saved]]] = {
    "gmos-parity/1": ("gmos-parity", SavedParity),
    "gmos-profile/1": ("gmos-profile", SavedProfile),
    "gmos-eval/1": ("gmos-eval", SavedEvaluation),
    "gmos-calibration/2": ("gmos-export calibrate", SavedCalibration),
    "gmos-tune/1": ("gmos-export tune", SavedTuning),
    "gmos-acceptance/1": ("benchmarks/acceptance.py", SavedAcceptance),
    "gmos-doctor/1": ("gmos-doctor --json", SavedDiagnosis),
}
"""What writes a result and what it holds, by the schema that it names."""


def read_saved(path: Path) -> Saved:
    """Read a result of any command.

    Raises:
        GmosError: it cannot be read, or is no result of a version that this one knows.
    """
    found = _object(path)
    schema = found.get("schema")
    if not isinstance(schema, str) or schema not in KINDS:
        writers = ", ".join(name for name, _ in KINDS.values())
        raise GmosError(
            f"{path} is no result of gmos-deploy (schema {_short(schema)}); expected JSON that {writers} wrote"
        )
    # A CSV of motion annotations, counted, has no scores.
    if found.get("evaluator") == "gmos-2k":
        raise GmosError(f"{path} counts a CSV of motion annotations, and scores nothing; leave it out")
    kind = KINDS[schema][1]
    return typed({**found, "file": str(path)}, kind, where=f"{path}: result", advice=ADVICE)


def _object(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            state = "is no file" if path.exists() else "does not exist"
            raise GmosError(f"{path} {state}; expected a result.json, or what --json wrote")
        found = parse_json(read_bounded(path, GREATEST_BYTES), path, "expected a result.json")
    except OSError as error:
        raise GmosError(
            f"{path} cannot be read ({error.strerror}); expected a readable result.json"
        ) from error
    if not isinstance(found, dict):
        raise GmosError(f"{path} holds no JSON object; expected a result.json")
    return found


def _short(schema: object) -> str:
    return "none" if schema is None else repr(schema)[:40]
