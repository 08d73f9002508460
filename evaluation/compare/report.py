"""A parity report: its result as JSON, every observation as JSON lines, and the tables of the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..report.files import OBSERVATIONS_FILE, RESULT_FILE, read_json, write_json, write_json_lines
from .limits import MaskLimits, ProfileName, failures, weakest
from .mask_agreement import SequenceAgreement
from .stage_agreement import Birth, StageAgreement, births
from .stage_tables import stage_tables

SCHEMA = "gmos-parity/1"
"""Name and version of the layout of result.json; the number rises when a reader of the old one would break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Two sides, what was compared of them, and the limits that it was held to."""

    kind: str
    a: str
    b: str
    profile: ProfileName
    limits: MaskLimits
    found: tuple[SequenceAgreement, ...]
    stages: tuple[StageAgreement, ...] = ()
    environment: Mapping[str, Any]
    seconds: float

    @property
    def failures(self) -> list[str]:
        """What is beyond the limits, in words."""
        return [line for agreement in self.found for line in failures(agreement, self.limits)]

    @property
    def passed(self) -> bool:
        """Whether nothing is beyond the limits."""
        return not self.failures

    @property
    def births(self) -> tuple[Birth, ...]:
        """Where the difference of each video is born; empty if B was not teacher-forced."""
        return births(self.stages)

    @property
    def verdict(self) -> str:
        """PASS or FAIL with the profile."""
        return f"{'PASS' if self.passed else 'FAIL'} ({self.profile})"


def result_json(report: ParityReport) -> dict[str, Any]:
    """The content of result.json, documented in docs/parity.md."""
    return {
        "schema": SCHEMA,
        "kind": report.kind,
        "passed": report.passed,
        "profile": report.profile,
        "limits": asdict(report.limits),
        "failures": report.failures,
        "a": report.a,
        "b": report.b,
        "seconds": round(report.seconds, 3),
        "results": [_result(found) for found in report.found],
        "stages": [stage.as_json() for stage in report.stages],
        "born_in": [asdict(birth) for birth in report.births],
        "environment": dict(report.environment),
    }


def _result(found: SequenceAgreement) -> dict[str, Any]:
    worst = found.worst_frame
    return {
        "result": found.result,
        "sequence": found.sequence,
        "frames": len(found.frames),
        "mean_iou": found.mean_iou,
        "mean_boundary_f": found.mean_boundary_f,
        "worst_frame": {"name": worst.name, "iou": worst.iou, "weakest": weakest(worst)},
        "different_pixels": sum(frame.different for frame in found.frames),
        "different_share": found.different_share,
        "matching": {str(a): b for a, b in found.matching.items()},
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
    }


def observations(report: ParityReport) -> Iterator[dict[str, Any]]:
    """The lines of observations.jsonl: one per frame of a result, then those of the stages."""
    for found in report.found:
        for frame in found.frames:
            yield {
                "result": found.result,
                "sequence": found.sequence,
                "frame": frame.name,
                "iou": frame.iou,
                "boundary_f": frame.boundary_f,
                "pixels": frame.pixels,
                "different": frame.different,
                "objects": [asdict(item) for item in frame.objects],
            }
    for stage in report.stages:
        yield from map(dict, stage.observations)


def write_report_files(directory: Path, report: ParityReport) -> None:
    """Write result.json and observations.jsonl, each whole or not at all.

    Raises:
        GmosError: they cannot be written.
    """
    write_json(directory / RESULT_FILE, result_json(report))
    write_json_lines(directory / OBSERVATIONS_FILE, observations(report))


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json of this version.

    Raises:
        GmosError: it cannot be read, is no JSON, or has another schema.
    """
    return read_json(path, schema=SCHEMA, what=f"{RESULT_FILE} of gmos-parity")


def report_tables(report: ParityReport) -> RenderableType:
    """The report for the terminal."""
    table = Table(title=f"A: {report.a}\nB: {report.b}", title_justify="left")
    table.add_column("result of video")
    for head in ("frames", "mean IoU", "least", "on frame", "mean F", "pixels that differ", "objects"):
        table.add_column(head, justify="right")
    for found in report.found:
        worst = found.worst_frame
        different = sum(frame.different for frame in found.frames)
        unmatched = len(found.only_a) + len(found.only_b)
        table.add_row(
            f"{found.result} of {found.sequence}",
            str(len(found.frames)),
            f"{found.mean_iou:.5f}",
            f"{worst.iou:.5f}",
            worst.name,
            f"{found.mean_boundary_f:.5f}",
            f"{different} ({found.different_share:.1e})",
            f"{len(found.matching)}" + (f" + {unmatched} unmatched" if unmatched else ""),
        )
    lines = [Text(line, style="red") for line in report.failures]
    verdict = Text(report.verdict, style="bold green" if report.passed else "bold red")
    stages = stage_tables(report.stages, report.births, passed=report.passed)
    return Group(table, *stages, *lines, verdict)
